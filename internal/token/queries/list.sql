SELECT id, role, tenant_id, description, created_at, expires_at, revoked_at, last_used_at
  FROM relay.tokens
 WHERE $1 = '' OR tenant_id = $1
 ORDER BY created_at, id
