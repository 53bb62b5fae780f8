SELECT id FROM relay.subscriptions WHERE id = $1 AND tenant_id = $2 FOR UPDATE
