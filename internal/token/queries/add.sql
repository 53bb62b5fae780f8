INSERT INTO relay.tokens (lookup, hash, role, tenant_id, description, expires_at)
VALUES ($1, $2, $3, $4, $5, $6)
RETURNING id, role, tenant_id, description, created_at, expires_at, revoked_at, last_used_at
