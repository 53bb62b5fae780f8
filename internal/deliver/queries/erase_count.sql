SELECT (SELECT count(*) FROM relay.subscriptions WHERE tenant_id = $1),
       (SELECT count(*) FROM relay.parked WHERE subscription_id = ANY ($2::uuid[])),
       (SELECT count(*) FROM relay.bodies WHERE tenant_id = $1),
       (SELECT count(*) FROM relay.deliveries WHERE tenant_id = $1),
       (SELECT count(*) FROM relay.replays WHERE tenant_id = $1)
