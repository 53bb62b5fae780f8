SELECT count(*) FROM relay.tokens WHERE tenant_id = $1
