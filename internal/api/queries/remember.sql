INSERT INTO relay.idempotency (tenant_id, operation, key, request, made) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (tenant_id, operation, key) DO UPDATE SET request = $4, made = $5, created_at = now()
