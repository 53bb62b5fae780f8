-- What is known about endpoints that do not work.

-- +goose Up

-- Subscriptions whose endpoint has taken nothing since its first failure. A table of its own, because a change of
-- relay.subscriptions is announced to everybody, and one of these is nobody's business but the leader's. No foreign
-- key, because a batch of outcomes must not fail over a subscription that was removed a moment ago.
CREATE TABLE relay.failing (
    subscription_id uuid PRIMARY KEY,
    since           timestamptz NOT NULL,
    warned_at       timestamptz
) WITH (fillfactor = 50);
