-- Deliveries that came to nothing are few, and are what one looks for.

-- +goose Up
CREATE INDEX deliveries_failed ON relay.deliveries (tenant_id, id) WHERE status <> 'DELIVERED';
