SELECT id, tenant_id, url, events, secret, description, ordering, active, disabled_reason, created_at, updated_at
  FROM relay.subscriptions
 WHERE id = $1
