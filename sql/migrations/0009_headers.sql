-- Headers that a subscription wants with each of its webhooks, Authorization among them.

-- +goose Up

-- JSON list of pairs of name and value, sealed like the secrets, because the values often are some; NULL: there are none.
ALTER TABLE relay.subscriptions ADD COLUMN headers text;

-- Since when it is disabled, which no other change of it moves; NULL: it is active, or that was done by other hands.
ALTER TABLE relay.subscriptions ADD COLUMN disabled_at timestamptz;
