INSERT INTO relay.subscriptions (tenant_id, url, events, secret, description, ordering)
VALUES ($1, $2, $3, $4, $5, $6)
RETURNING id, tenant_id, url, events, secret, description, ordering, active, disabled_reason, created_at, updated_at
