INSERT INTO relay.subscriptions (tenant_id, url, events, secret, description, ordering, on_dead)
VALUES ($1, $2, $3, $4, $5, $6, $7)
RETURNING id, tenant_id, url, events, secret, description, ordering, on_dead, active, disabled_reason, created_at, updated_at
