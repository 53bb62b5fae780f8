-- The subscriptions of a tenant, and those that are gone and still have something of it waiting.
SELECT id FROM relay.subscriptions WHERE tenant_id = $1
 UNION
SELECT p.subscription_id FROM relay.bodies b JOIN relay.parked p USING (commit_lsn, event_id) WHERE b.tenant_id = $1
