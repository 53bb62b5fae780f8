-- What a leader has still to let go of a tenant: rows that wait for its subscriptions, and replays at work.
SELECT (SELECT count(*) FROM relay.parked WHERE subscription_id = ANY ($2::uuid[]))
     + (SELECT count(*) FROM relay.replays WHERE tenant_id = $1 AND state = 'RUNNING')
