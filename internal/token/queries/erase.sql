DELETE FROM relay.tokens WHERE id IN (SELECT id FROM relay.tokens WHERE tenant_id = $1 ORDER BY id LIMIT $2)
