-- Progress that can be proved: markers, what they leave behind, and the incidents that they find or mend.

-- +goose Up

-- Finds the rows of the latest transactions without reading the partitions through. Rows come nearly in the order of
-- their transactions, so a block range index does, and costs a writer next to nothing (docs/decisions/0007). There is no
-- operator class of this kind for xid8, hence the cast.
CREATE INDEX events_xid ON outbox.events USING brin (((xid::text)::bigint)) WITH (pages_per_range = 32);

--   marker      snapshot all of whose rows are known to have come through the stream and to be recorded
--   marker_lsn  commit LSN of the transaction that carried it through the stream
--   marker_at   when that was found out
ALTER TABLE relay.progress
    ADD COLUMN marker     pg_snapshot,
    ADD COLUMN marker_lsn pg_lsn NOT NULL DEFAULT '0/0',
    ADD COLUMN marker_at  timestamptz;

-- Transactions that are recorded and that the marker need not show, one row a recording batch (entries: 8 bytes
-- commit LSN, 8 transaction id, 4 number of rows, 8 fingerprint of their ids, each). Trimmed at each marker; an entry
-- may stand here twice then. The next leader audits with it, and a rescue skips what stands here.
CREATE TABLE relay.accounted (
    slot    text NOT NULL,
    max_lsn pg_lsn NOT NULL,
    entries bytea NOT NULL
);
CREATE INDEX accounted_slot_max_lsn ON relay.accounted (slot, max_lsn);

-- What went wrong with the stream, and how it was mended. For people; the relay decides nothing by it.
CREATE TABLE relay.incidents (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    slot       text NOT NULL,
    kind       text NOT NULL CHECK (kind IN ('rescue', 'audit', 'publication')),
    detail     text NOT NULL,
    began_at   timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz,
    rows_read  bigint NOT NULL DEFAULT 0,
    rows_sent  bigint NOT NULL DEFAULT 0
);

ALTER TABLE relay.requests
    DROP CONSTRAINT requests_kind_check,
    ADD CONSTRAINT requests_kind_check CHECK (kind IN ('retry_delivery', 'retry_quarantine', 'rescue'));

DROP FUNCTION relay.advance(text, bigint, bigint, pg_lsn, pg_lsn, integer, bytea, pg_lsn, boolean);

-- Moves progress on and keeps what was recorded above it, or fails: with RL001 when
-- another leader has taken over, with RL002 when the batch is written already; the
-- rest of its transaction is then rolled back with it. One statement, because it runs with every batch.
-- +goose StatementBegin
CREATE FUNCTION relay.advance(the_slot text, my_epoch bigint, my_batch bigint, new_end pg_lsn, new_partial pg_lsn,
                              new_rows integer, new_entries bytea, entries_max pg_lsn, trim_settled boolean,
                              new_accounted bytea)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE relay.progress
       SET end_lsn = new_end, partial_lsn = new_partial, partial_rows = new_rows, batch = my_batch,
           updated_at = now()
     WHERE slot = the_slot AND epoch = my_epoch AND batch < my_batch;
    IF NOT FOUND THEN
        IF EXISTS (SELECT FROM relay.progress WHERE slot = the_slot AND epoch = my_epoch) THEN
            RAISE EXCEPTION 'batch % of slot % is written', my_batch, the_slot USING ERRCODE = 'RL002';
        END IF;
        RAISE EXCEPTION 'epoch % of slot % is over', my_epoch, the_slot
            USING ERRCODE = 'RL001', HINT = 'Another relay has taken over.';
    END IF;
    IF new_entries IS NOT NULL THEN
        INSERT INTO relay.settled (slot, max_lsn, entries) VALUES (the_slot, entries_max, new_entries);
    END IF;
    IF new_accounted IS NOT NULL THEN
        INSERT INTO relay.accounted (slot, max_lsn, entries) VALUES (the_slot, new_end, new_accounted);
    END IF;
    IF trim_settled THEN
        DELETE FROM relay.settled WHERE slot = the_slot AND max_lsn < new_end;
    END IF;
END
$$;
-- +goose StatementEnd

-- Notes that all rows that a snapshot shows are recorded, those among them that were read from the table. left_over are the transactions that came before its marker
-- and that it does not show. Fails with RL001 as relay.advance does.
-- +goose StatementBegin
CREATE FUNCTION relay.mark(the_slot text, my_epoch bigint, shown pg_snapshot, at_lsn pg_lsn, left_over bytea)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE relay.progress SET marker = shown, marker_lsn = at_lsn, marker_at = now(), backfill = NULL
     WHERE slot = the_slot AND epoch = my_epoch;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'epoch % of slot % is over', my_epoch, the_slot
            USING ERRCODE = 'RL001', HINT = 'Another relay has taken over.';
    END IF;
    DELETE FROM relay.accounted WHERE slot = the_slot AND max_lsn <= at_lsn;
    IF left_over IS NOT NULL THEN
        INSERT INTO relay.accounted (slot, max_lsn, entries) VALUES (the_slot, at_lsn, left_over);
    END IF;
END
$$;
-- +goose StatementEnd
