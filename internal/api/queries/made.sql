SELECT made, request FROM relay.idempotency WHERE tenant_id = $1 AND operation = $2 AND key = $3 AND created_at > $4
