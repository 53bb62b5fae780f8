-- The outbox: the table that writers insert into, in the transaction that changes their own tables.

-- The schema relay may have been dropped alone, and the versions with it: what is in the schema outbox stays.

-- +goose Up
CREATE SCHEMA IF NOT EXISTS outbox;

-- +goose StatementBegin
DO $$ BEGIN
    IF to_regclass('outbox.events') IS NOT NULL AND NOT EXISTS (SELECT FROM pg_attrdef
            WHERE adrelid = to_regclass('outbox.events') AND pg_get_expr(adbin, adrelid) = 'outbox.uuid_v7()') THEN
        RAISE duplicate_table USING MESSAGE = 'relation "events" already exists, and is not what this migration makes',
            HINT = 'Rename it: ALTER TABLE outbox.events RENAME TO my_events.';
    END IF;
END $$;
-- +goose StatementEnd

-- A UUID of version 7 (RFC 9562): 48 bits of milliseconds, then 12 bits of the rest of the millisecond, so that ids
-- sort by the time they were made also within a millisecond, then 62 random bits. One expression, so that PostgreSQL
-- inlines it; built-in functions only, so that it is the same on every major. It is parsed here, once, and does not
-- depend on the caller's search_path.
CREATE OR REPLACE FUNCTION outbox.uuid_v7() RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN (overlay(lpad(to_hex((extract(epoch FROM clock_timestamp()) * 4096000)::bigint), 15, '0')
                    PLACING '7' FROM 13 FOR 0)
            || substr(gen_random_uuid()::text, 20))::uuid;

-- Every table's default calls it as the role that inserts, and it reads nothing but the clock.
GRANT EXECUTE ON FUNCTION outbox.uuid_v7() TO PUBLIC;

-- Writers set tenant_id, aggregate_type, aggregate_id, event_type and payload, and leave the rest.
--
-- No primary key and no index: each would cost every writer on every insert, and on the way from the stream to the
-- endpoint nothing reads this table by key. What does read it (audit, rescue, replay) reads whole ranges of time, and
-- those are partitions.
--
-- payload is json, not jsonb: cheaper to insert and to stream, and its bytes stay as the writer wrote them, key order,
-- number spelling and all. A jsonb value can be assigned to it as it is.
--
-- xid is the id of the transaction that wrote the row. It says which rows a snapshot shows, which is how a lost slot
-- is recovered without a gap. It is a column because xmin does not survive freezing and is only half as wide.
CREATE TABLE IF NOT EXISTS outbox.events (
    id             uuid        NOT NULL DEFAULT outbox.uuid_v7(),
    tenant_id      text        NOT NULL,
    aggregate_type text        NOT NULL,
    aggregate_id   text        NOT NULL,
    event_type     text        NOT NULL,
    payload        json        NOT NULL,
    headers        jsonb,
    created_at     timestamptz NOT NULL DEFAULT now(),
    xid            xid8        NOT NULL DEFAULT pg_current_xact_id()
) PARTITION BY RANGE (created_at);

-- Takes what no other partition takes, so that an insert never fails because the relay was away and made none.
CREATE TABLE IF NOT EXISTS outbox.events_default PARTITION OF outbox.events DEFAULT;

COMMENT ON SCHEMA outbox IS 'Transactional outbox: writers insert, the relay delivers.';
COMMENT ON TABLE outbox.events IS 'Events to deliver. Insert in the transaction that changes your own tables.';
COMMENT ON COLUMN outbox.events.id IS 'Id of the event, the receiver''s webhook-id. Leave it to the default.';
COMMENT ON COLUMN outbox.events.event_type IS 'Whole name, such as payment.received.';
COMMENT ON COLUMN outbox.events.payload IS 'Data of the event, delivered byte for byte.';
COMMENT ON COLUMN outbox.events.xid IS 'Transaction that wrote the row. Leave it to the default.';
