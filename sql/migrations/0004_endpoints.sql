-- What is known about endpoints that do not work, and lanes that stand still behind a dead letter.

-- +goose Up

-- Subscriptions whose endpoint has taken nothing since its first failure. A table of its own, because a change of
-- relay.subscriptions is announced to everybody, and one of these is nobody's business but the leader's. No foreign
-- key, because a batch of outcomes must not fail over a subscription that was removed a moment ago.
CREATE TABLE relay.failing (
    subscription_id uuid PRIMARY KEY,
    since           timestamptz NOT NULL,
    warned_at       timestamptz
) WITH (fillfactor = 50);

-- What happens to a lane whose head is given up: 'release' lets the next go on, 'halt' keeps the dead one in its place,
-- and all of its key behind it, until somebody retries or discards it.
ALTER TABLE relay.subscriptions
    ADD COLUMN on_dead text NOT NULL DEFAULT 'release' CHECK (on_dead IN ('release', 'halt'));

-- When a row of a lane that halts was given up. Such a row has no next_attempt_at, and nothing behind it has.
ALTER TABLE relay.parked ADD COLUMN dead_at timestamptz;

ALTER TABLE relay.requests
    DROP CONSTRAINT requests_kind_check,
    ADD CONSTRAINT requests_kind_check CHECK (kind IN ('retry_delivery', 'discard_delivery', 'retry_quarantine', 'rescue'));
