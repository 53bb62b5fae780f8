-- The deliveries of a tenant's subscription that have numbers above one and up to another, by number. Of those that have ended,
-- the ones between two marks are found by their ids, which begin with the commit time; late ones by their own marks.
SELECT u.*, NULL::text FROM (
    (SELECT p.id, p.event_id, p.subscription_id, b.tenant_id, b.event_type, b.aggregate_type, b.aggregate_id,
            CASE WHEN p.dead_at IS NULL THEN 'PENDING' ELSE 'DEAD' END, p.attempts, p.last_error,
            p.last_status, p.created_at, p.dead_at,
            CASE WHEN p.next_attempt_at IS NULL OR NOT s.active THEN NULL
                 WHEN f.circuit_open AND p.next_attempt_at = (SELECT min(m.next_attempt_at) FROM relay.parked m
                                                               WHERE m.subscription_id = p.subscription_id AND m.replay_id IS NULL
                                                                 AND m.next_attempt_at IS NOT NULL)
                 THEN greatest(f.not_before, now()) ELSE greatest(p.next_attempt_at, f.not_before, now()) END,
            false, p.dead_at IS NOT NULL, NULL::integer,
            NULL::jsonb, p.replay_id, p.sequence, p.xid, p.commit_lsn::text, p.dead_at IS NULL AND NOT s.active
       FROM relay.parked p JOIN relay.bodies b USING (commit_lsn, event_id)
       LEFT JOIN relay.subscriptions s ON s.id = p.subscription_id LEFT JOIN relay.failing f ON f.subscription_id = s.id
      WHERE p.subscription_id = $2 AND p.sequence > $3 AND p.sequence <= $4 AND b.tenant_id = $1)
    UNION ALL
    (SELECT d.id, d.event_id, d.subscription_id, d.tenant_id, d.event_type, d.aggregate_type, d.aggregate_id,
            d.status, d.attempts, d.last_error, d.last_status, d.created_at, d.ended_at, NULL, false, false, d.duration_us,
            NULL, d.replay_id, d.sequence, d.xid, d.commit_lsn::text, false
       FROM relay.deliveries d
      WHERE d.tenant_id = $1 AND d.id >= $5 AND d.id < $6 AND d.created_at >= $7 AND d.created_at < $8
        AND d.subscription_id = $2 AND d.sequence > $3 AND d.sequence <= $4 AND (d.mark IS NULL OR d.mark > 0))
    UNION ALL
    (SELECT d.id, d.event_id, d.subscription_id, d.tenant_id, d.event_type, d.aggregate_type, d.aggregate_id,
            d.status, d.attempts, d.last_error, d.last_status, d.created_at, d.ended_at, NULL, false, false, d.duration_us,
            NULL, d.replay_id, d.sequence, d.xid, d.commit_lsn::text, false
       FROM relay.deliveries d
      WHERE d.subscription_id = $2 AND d.mark < -$3::bigint AND d.mark >= -$4::bigint AND d.tenant_id = $1)
) AS u
 ORDER BY sequence
