SELECT count(*) FROM relay.subscriptions WHERE tenant_id = $1
