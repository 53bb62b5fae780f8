DELETE FROM relay.idempotency
 WHERE (tenant_id, operation, key) IN (SELECT tenant_id, operation, key FROM relay.idempotency WHERE tenant_id = $1 LIMIT $2)
