INSERT INTO relay.subscriptions (tenant_id, url, events, secret, description, ordering, on_dead, id, headers, rate_limit, retry_schedule, format,
                                 filter, active, disabled_reason, client_certificate, timeout, disabled_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, CASE WHEN NOT $14 THEN now() END)
RETURNING created_at, updated_at
