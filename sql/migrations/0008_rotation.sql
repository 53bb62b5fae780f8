-- How the secret that a subscription is signed with gives way to another one.

-- +goose Up

-- next_secret signs beside secret from when it was staged; X-Signature, which has room for one, is of secret alone. When
-- it is promoted it becomes secret, and what was secret before signs as previous_secret until it expires. All three may be
-- sealed ("sealed:" and the base64 of Tink's output), each for its own column and row.
ALTER TABLE relay.subscriptions
    ADD COLUMN next_secret text,
    ADD COLUMN next_secret_staged_at timestamptz,
    ADD COLUMN previous_secret text,
    ADD COLUMN previous_secret_expires_at timestamptz,
    ADD CONSTRAINT subscriptions_next_secret CHECK ((next_secret IS NULL) = (next_secret_staged_at IS NULL)),
    ADD CONSTRAINT subscriptions_previous_secret CHECK ((previous_secret IS NULL) = (previous_secret_expires_at IS NULL));

CREATE INDEX subscriptions_previous_secret ON relay.subscriptions (previous_secret_expires_at) WHERE previous_secret IS NOT NULL;
