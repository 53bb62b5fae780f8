SELECT id, tenant_id, url, events, secret, description, ordering, active, disabled_reason, created_at, updated_at
  FROM relay.subscriptions
 WHERE $1 = '' OR tenant_id = $1
 ORDER BY created_at, id
