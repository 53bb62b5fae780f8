-- As whom a subscription's webhooks are posted, where the receiver asks for a client certificate (mutual TLS).

-- +goose Up

-- The certificate, those that lead to its authority, and its key, as PEM, sealed like the secrets, because the key is one;
-- NULL: there is none.
ALTER TABLE relay.subscriptions ADD COLUMN client_certificate text;
