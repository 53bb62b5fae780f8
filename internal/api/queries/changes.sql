-- Newest first, before an id.
SELECT id, at, actor, action, target, before, after, request_id
  FROM relay.changes
 WHERE tenant_id = $1 AND id < $2
 ORDER BY id DESC LIMIT $3
