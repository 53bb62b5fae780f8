INSERT INTO relay.changes (tenant_id, actor, action, target, before, after, request_id, address)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
