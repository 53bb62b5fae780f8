-- What the REST API needs: who may call, what was changed by whom, and what a repeated call has done already.

-- +goose Up

-- A token is kept as the SHA-256 of its whole text; lookup is the part of the text that finds the row and opens nothing.
-- A row without tenant is an operator's.
CREATE TABLE relay.tokens (
    id           uuid PRIMARY KEY DEFAULT outbox.uuid_v7(),
    lookup       text NOT NULL UNIQUE,
    hash         bytea NOT NULL CHECK (octet_length(hash) = 32),
    role         text NOT NULL CHECK (role IN ('tenant-read', 'tenant-write', 'operator')),
    tenant_id    text CHECK (tenant_id <> ''),
    description  text NOT NULL DEFAULT '',
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz,
    CHECK ((role = 'operator') = (tenant_id IS NULL))
);
CREATE INDEX tokens_tenant ON relay.tokens (tenant_id, id);

-- What was changed through the API, in the transaction that changed it. Secrets are in neither picture.
CREATE TABLE relay.changes (
    id         uuid PRIMARY KEY DEFAULT outbox.uuid_v7(),
    at         timestamptz NOT NULL DEFAULT now(),
    tenant_id  text NOT NULL,
    actor      text NOT NULL,
    action     text NOT NULL,
    target     text NOT NULL,
    before     jsonb,
    after      jsonb,
    request_id text NOT NULL,
    address    text NOT NULL
);
CREATE INDEX changes_tenant ON relay.changes (tenant_id, id);
CREATE INDEX changes_at ON relay.changes (at);

-- What calls with an Idempotency-Key made, for a day. request is the SHA-256 of the call's body.
CREATE TABLE relay.idempotency (
    tenant_id  text NOT NULL,
    operation  text NOT NULL,
    key        text NOT NULL,
    request    bytea NOT NULL,
    made       uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, operation, key)
);
CREATE INDEX idempotency_created_at ON relay.idempotency (created_at);

-- Signs cursors, so that every relay beside this database takes those of every other: 244 random bits.
CREATE TABLE relay.cursor_key (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    key bytea NOT NULL DEFAULT uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
);
INSERT INTO relay.cursor_key DEFAULT VALUES;

-- What tenants call a replay: its number would tell them how many there were.
ALTER TABLE relay.replays ADD COLUMN public_id uuid NOT NULL DEFAULT outbox.uuid_v7();
CREATE UNIQUE INDEX replays_public ON relay.replays (tenant_id, public_id);
