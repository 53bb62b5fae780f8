INSERT INTO relay.changes (tenant_id, actor, action, target, after, request_id, address)
VALUES ($1, 'role:' || session_user, $2, $1, $3, '', '')
