-- The deliveries of a tenant's subscription that have numbers above one and up to another, by number. The condition on the
-- tenant is none that an index can find: that by number is the one to go by.
SELECT * FROM (
    (SELECT p.id, p.event_id, p.subscription_id, b.tenant_id, b.event_type, b.aggregate_type, b.aggregate_id,
            CASE WHEN p.dead_at IS NULL THEN 'PENDING' ELSE 'DEAD' END, p.attempts, p.last_error,
            p.last_status, p.created_at, p.dead_at, p.next_attempt_at, false, p.dead_at IS NOT NULL, NULL::integer,
            NULL::jsonb, p.replay_id, p.sequence, p.xid, p.commit_lsn::text
       FROM relay.parked p JOIN relay.bodies b USING (commit_lsn, event_id)
      WHERE p.subscription_id = $2 AND p.sequence > $3 AND p.sequence <= $4 AND b.tenant_id = $1
      ORDER BY p.sequence LIMIT $5)
    UNION ALL
    (SELECT d.id, d.event_id, d.subscription_id, d.tenant_id, d.event_type, d.aggregate_type, d.aggregate_id,
            d.status, d.attempts, d.last_error, d.last_status, d.created_at, d.ended_at, NULL, false, false, d.duration_us,
            NULL, d.replay_id, d.sequence, d.xid, d.commit_lsn::text
       FROM relay.deliveries d
      WHERE d.subscription_id = $2 AND d.sequence > $3 AND d.sequence <= $4 AND d.tenant_id || '' = $1
      ORDER BY d.sequence LIMIT $5)
) AS u
 ORDER BY sequence LIMIT $5
