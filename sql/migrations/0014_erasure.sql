-- What `relay tenant erase` asks of the leader: to let go of a tenant's subscriptions that are gone.

-- +goose Up
ALTER TABLE relay.requests
    DROP CONSTRAINT requests_kind_check,
    ADD CONSTRAINT requests_kind_check
        CHECK (kind IN ('retry_delivery', 'discard_delivery', 'retry_quarantine', 'rescue', 'let_tenant_go'));
