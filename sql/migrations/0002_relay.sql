-- What the relay keeps for itself. Writers need no right on any of it.

-- +goose Up
CREATE SCHEMA IF NOT EXISTS relay;

-- One row a slot: how far everything is recorded, and who may say so.
--   end_lsn       end of the last transaction below which everything is recorded
--   partial_lsn   commit LSN of the first transaction that is not finished, and
--   partial_rows  how many of its first rows are recorded
--   batch         number of the last recording batch of this epoch: a batch whose commit
--                 was not heard of, because the connection broke, is not written twice
--   backfill      snapshot in which rows from before the slot are read, until that is done
--   epoch         grows with each take-over; a write under an older one fails. It comes from a
--                 sequence, so that it grows over a deleted row too
-- PostgreSQL keeps the slot's own position only lazily, so this row, committed
-- together with the outcomes, is what a restart begins from.
CREATE SEQUENCE relay.epochs;

CREATE TABLE relay.progress (
    slot         text PRIMARY KEY,
    epoch        bigint NOT NULL DEFAULT 0,
    system_id    text NOT NULL,
    timeline     integer NOT NULL,
    end_lsn      pg_lsn NOT NULL,
    partial_lsn  pg_lsn NOT NULL DEFAULT '0/0',
    partial_rows integer NOT NULL DEFAULT 0,
    backfill     pg_snapshot,
    batch        bigint NOT NULL DEFAULT 0,
    updated_at   timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

-- What was recorded above the progress row's position, one row a recording
-- batch (entries: 8 bytes commit LSN, 16 event id, 16 subscription id, each).
-- Trimmed as progress moves on. A restart skips what stands here.
CREATE TABLE relay.settled (
    slot    text NOT NULL,
    max_lsn pg_lsn NOT NULL,
    entries bytea NOT NULL
);
CREATE INDEX settled_slot_max_lsn ON relay.settled (slot, max_lsn);

-- Moves progress on and keeps what was recorded above it, or fails: with RL001 when
-- another leader has taken over, with RL002 when the batch is written already; the
-- rest of its transaction is then rolled back with it. One statement, because it runs with every batch.
-- +goose StatementBegin
CREATE FUNCTION relay.advance(the_slot text, my_epoch bigint, my_batch bigint, new_end pg_lsn, new_partial pg_lsn,
                              new_rows integer, new_entries bytea, entries_max pg_lsn, trim_settled boolean)
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
    IF trim_settled THEN
        DELETE FROM relay.settled WHERE slot = the_slot AND max_lsn < new_end;
    END IF;
END
$$;
-- +goose StatementEnd

CREATE TABLE relay.subscriptions (
    id              uuid PRIMARY KEY DEFAULT outbox.uuid_v7(),
    tenant_id       text NOT NULL CHECK (tenant_id <> ''),
    url             text NOT NULL,
    events          text[] NOT NULL CHECK (cardinality(events) > 0),
    secret          text NOT NULL,
    description     text NOT NULL DEFAULT '',
    ordering        text NOT NULL DEFAULT 'key' CHECK (ordering IN ('key', 'none')),
    active          boolean NOT NULL DEFAULT true,
    disabled_reason text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX subscriptions_tenant ON relay.subscriptions (tenant_id, id);

-- A change travels twice: NOTIFY wakes the relay at once, and the message in
-- the WAL stands before every later transaction, so that a row committed after
-- a subscription can never be matched without it.
-- +goose StatementBegin
CREATE FUNCTION relay.subscription_changed() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    changed uuid := CASE WHEN TG_OP = 'DELETE' THEN OLD.id ELSE NEW.id END;
BEGIN
    PERFORM pg_logical_emit_message(true, 'relay.subscription', changed::text);
    PERFORM pg_notify('relay_subscription', changed::text);
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER subscription_changed AFTER INSERT OR UPDATE OR DELETE ON relay.subscriptions
    FOR EACH ROW EXECUTE FUNCTION relay.subscription_changed();

-- Bodies of events that wait or are dead, once for all subscriptions.
CREATE TABLE relay.bodies (
    commit_lsn     pg_lsn NOT NULL,
    event_id       uuid NOT NULL,
    tenant_id      text NOT NULL,
    event_type     text NOT NULL,
    aggregate_type text NOT NULL,
    aggregate_id   text NOT NULL,
    committed_at   timestamptz NOT NULL,
    body           bytea NOT NULL,
    keep_until     timestamptz,
    PRIMARY KEY (commit_lsn, event_id)
);

-- Deliveries that wait: the small hot table. Order within a lane is
-- (commit_lsn, row_index). Only the head of a lane has a next_attempt_at; the
-- rows behind it wait for it.
CREATE TABLE relay.parked (
    subscription_id uuid NOT NULL,
    commit_lsn      pg_lsn NOT NULL,
    row_index       integer NOT NULL,
    event_id        uuid NOT NULL,
    id              uuid NOT NULL,
    lane            bigint NOT NULL,
    attempts        integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz,
    last_error      text,
    last_status     integer,
    history         jsonb,
    created_at      timestamptz NOT NULL,
    parked_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (subscription_id, lane, commit_lsn, row_index)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.2);
CREATE INDEX parked_due ON relay.parked (subscription_id, next_attempt_at) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX parked_id ON relay.parked (id);
CREATE INDEX parked_body ON relay.parked (commit_lsn, event_id);

-- Deliveries that ended, append-only. created_at is the commit time of the
-- event's transaction, and id begins with it, so that an id names its partition.
CREATE TABLE relay.deliveries (
    id               uuid NOT NULL,
    created_at       timestamptz NOT NULL,
    tenant_id        text NOT NULL,
    subscription_id  uuid NOT NULL,
    event_id         uuid NOT NULL,
    event_type       text NOT NULL,
    aggregate_type   text NOT NULL,
    aggregate_id     text NOT NULL,
    commit_lsn       pg_lsn NOT NULL,
    row_index        integer NOT NULL,
    status           text NOT NULL,
    attempts         integer NOT NULL,
    last_error       text,
    last_status      integer,
    duration_us      integer,
    ended_at         timestamptz NOT NULL,
    history          jsonb
) PARTITION BY RANGE (created_at);
CREATE TABLE relay.deliveries_default PARTITION OF relay.deliveries DEFAULT;
CREATE INDEX deliveries_tenant ON relay.deliveries (tenant_id, id);
-- Rows come nearly in the order of their ids, so a block range index finds one
-- by id and costs the recording next to nothing.
CREATE INDEX deliveries_id ON relay.deliveries USING brin (id) WITH (pages_per_range = 32, autosummarize = on);

-- Rows that could not become events, with the reason and their bytes.
CREATE TABLE relay.quarantine (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    commit_lsn   pg_lsn NOT NULL,
    row_index    integer NOT NULL,
    committed_at timestamptz NOT NULL,
    reason       text NOT NULL,
    detail       text NOT NULL,
    event_id     text,
    tenant_id    text,
    event_type   text,
    raw          bytea NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (commit_lsn, row_index)
);

-- What the command line and the API ask of the leader. One process decides
-- about order, so nobody else touches what waits.
CREATE TABLE relay.requests (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind       text NOT NULL CHECK (kind IN ('retry_delivery', 'retry_quarantine')),
    target     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
-- +goose StatementBegin
CREATE FUNCTION relay.request_made() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('relay_request', NEW.id::text);
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER request_made AFTER INSERT ON relay.requests
    FOR EACH ROW EXECUTE FUNCTION relay.request_made();
