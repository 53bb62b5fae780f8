SELECT id FROM relay.subscriptions WHERE tenant_id = $1
