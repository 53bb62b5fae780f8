-- Progress that can be proved: markers, what they leave behind, and the incidents that they find or mend.

-- +goose Up

-- Finds the rows of the latest transactions without reading the partitions through. Rows come nearly in the order of
-- their transactions, so a block range index does, and costs a writer next to nothing (docs/decisions/0007). There is no
-- operator class of this kind for xid8, hence the cast.
CREATE INDEX IF NOT EXISTS events_xid ON outbox.events USING brin (((xid::text)::bigint)) WITH (pages_per_range = 128, autosummarize = on);

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
    kind       text NOT NULL CHECK (kind IN ('rescue', 'audit', 'publication', 'failover')),
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

-- Timeline that this server writes. Only a server that takes writes can tell.
CREATE FUNCTION relay.timeline() RETURNS integer LANGUAGE sql VOLATILE
    RETURN ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::integer;

-- Fails with RL001 unless the leader of an epoch may write: nobody has taken over, and this database is the one that it has
-- written to all along. After a failover or a restore the row of relay.progress is an older one: of another timeline, or
-- without the leader's last batches. What the leader has in memory belongs to another history then, whose
-- positions and transaction ids mean something else here.
-- +goose StatementBegin
CREATE FUNCTION relay.refuse(the_slot text, my_epoch bigint, my_batch bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    p relay.progress;
BEGIN
    SELECT * INTO p FROM relay.progress WHERE slot = the_slot;
    IF p.epoch = my_epoch AND p.timeline <> relay.timeline() THEN
        RAISE EXCEPTION 'this server writes timeline %, and epoch % of slot % began on timeline %',
            relay.timeline(), my_epoch, the_slot, p.timeline USING ERRCODE = 'RL001', HINT = 'Another server has become the primary.';
    ELSIF p.epoch = my_epoch THEN
        RAISE EXCEPTION 'this server knows batch % of epoch % of slot %, and this relay has written batch %',
            p.batch, my_epoch, the_slot, my_batch USING ERRCODE = 'RL001', HINT = 'Its data were restored, or it lost its last commits.';
    END IF;
    RAISE EXCEPTION 'epoch % of slot % is over', my_epoch, the_slot
        USING ERRCODE = 'RL001', HINT = 'Another relay has taken over.';
END
$$;
-- +goose StatementEnd

-- Moves progress on and keeps what was recorded above it, or fails: with RL001 (see relay.refuse), or with RL002 when the
-- batch is written already; the rest of its transaction is then rolled back with it. Batches of an epoch are numbered
-- without a gap. One statement, because it runs with every batch.
-- +goose StatementBegin
CREATE FUNCTION relay.advance(the_slot text, my_epoch bigint, my_batch bigint, new_end pg_lsn, new_partial pg_lsn,
                              new_rows integer, new_entries bytea, entries_max pg_lsn, trim_settled boolean,
                              new_accounted bytea)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE relay.progress
       SET end_lsn = new_end, partial_lsn = new_partial, partial_rows = new_rows, batch = my_batch,
           updated_at = now()
     WHERE slot = the_slot AND epoch = my_epoch AND batch = my_batch - 1 AND timeline = relay.timeline();
    IF NOT FOUND THEN
        IF EXISTS (SELECT FROM relay.progress WHERE slot = the_slot AND epoch = my_epoch AND batch = my_batch
                      AND timeline = relay.timeline()) THEN
            RAISE EXCEPTION 'batch % of slot % is written', my_batch, the_slot USING ERRCODE = 'RL002';
        END IF;
        PERFORM relay.refuse(the_slot, my_epoch, my_batch - 1);
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

-- Notes that all rows that a snapshot shows are recorded, those among them that were read from the table. left_over are
-- the transactions that came before its marker and that it does not show. my_batch is the leader's last one, or an earlier
-- one. Fails with RL001 (see relay.refuse).
-- +goose StatementBegin
CREATE FUNCTION relay.mark(the_slot text, my_epoch bigint, my_batch bigint, shown pg_snapshot, at_lsn pg_lsn, left_over bytea)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE relay.progress SET marker = shown, marker_lsn = at_lsn, marker_at = now(), backfill = NULL
     WHERE slot = the_slot AND epoch = my_epoch AND batch >= my_batch AND timeline = relay.timeline();
    IF NOT FOUND THEN
        PERFORM relay.refuse(the_slot, my_epoch, my_batch);
    END IF;
    DELETE FROM relay.accounted WHERE slot = the_slot AND max_lsn <= at_lsn;
    IF left_over IS NOT NULL THEN
        INSERT INTO relay.accounted (slot, max_lsn, entries) VALUES (the_slot, at_lsn, left_over);
    END IF;
END
$$;
-- +goose StatementEnd
