-- Replay: retained events sent again, or for the first time to a new subscription.

-- +goose Up

-- One row a replay: what is asked for, and how far it is. The command line inserts it and may set cancel; everything
-- else is written by the leader, the cursor and the counts in the transaction of the rows and outcomes that they count.
--   events               patterns that narrow what the subscription matches; empty: nothing more
--   spec                 the request as it was typed: the same one again is no second replay
--   from_at, to_at       bounds of created_at, the second one excluded
--   total                rows that matched when it was asked for
--   cursor_key, _id      place in the order of the outbox behind which it reads on
--   read_all             every row of the range is read, so retention may have them
--   queued               rows that became deliveries; they are numbered by it
--   skipped              rows that are no events, say nothing, or were gone
CREATE TABLE relay.replays (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subscription_id uuid NOT NULL,
    tenant_id       text NOT NULL,
    events          text[] NOT NULL,
    spec            text NOT NULL,
    from_at         timestamptz NOT NULL,
    to_at           timestamptz NOT NULL,
    rate            integer NOT NULL CHECK (rate > 0),
    state           text NOT NULL DEFAULT 'RUNNING' CHECK (state IN ('RUNNING', 'DONE', 'CANCELLED')),
    detail          text,
    cancel          boolean NOT NULL DEFAULT false,
    total           bigint NOT NULL,
    cursor_key      bigint NOT NULL DEFAULT -9223372036854775808,
    cursor_id       text NOT NULL DEFAULT '',
    read_all        boolean NOT NULL DEFAULT false,
    queued          bigint NOT NULL DEFAULT 0,
    skipped         bigint NOT NULL DEFAULT 0,
    delivered       bigint NOT NULL DEFAULT 0,
    dead            bigint NOT NULL DEFAULT 0,
    cancelled       bigint NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    ended_at        timestamptz,
    CHECK (from_at < to_at)
) WITH (fillfactor = 50);
-- One at a time for a subscription: two would mix the order of a key.
CREATE UNIQUE INDEX replays_running ON relay.replays (subscription_id) WHERE state = 'RUNNING';

-- +goose StatementBegin
CREATE FUNCTION relay.replay_asked() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('relay_request', 'replay');
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER replay_asked AFTER INSERT OR UPDATE OF cancel ON relay.replays
    FOR EACH ROW EXECUTE FUNCTION relay.replay_asked();

-- Which replay a delivery belongs to; NULL: it came through the stream.
ALTER TABLE relay.parked ADD COLUMN replay_id bigint;
ALTER TABLE relay.deliveries ADD COLUMN replay_id bigint;
CREATE INDEX parked_replay ON relay.parked (replay_id) WHERE replay_id IS NOT NULL;
-- Rows of the stream are found as fast when thousands of a replay are due before them.
DROP INDEX relay.parked_due;
CREATE INDEX parked_due ON relay.parked (subscription_id, (replay_id IS NOT NULL), next_attempt_at)
    WHERE next_attempt_at IS NOT NULL;
