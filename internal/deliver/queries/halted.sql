SELECT p.subscription_id, p.lane, p.created_at, b.tenant_id, b.event_type
  FROM relay.parked p JOIN relay.bodies b USING (commit_lsn, event_id)
 WHERE p.id = $1 AND p.dead_at IS NOT NULL
