-- What waits and what ended, newest first, between two ids. The bounds on created_at say the same as those on id,
-- of which it is the beginning; they are there for the partitions. The next attempt is when it will be: not while the
-- subscription is disabled, not before the endpoint may be tried, and by the soonest of what waits once its circuit is open.
SELECT u.*, s.url FROM (
    (SELECT p.id, p.event_id, p.subscription_id, b.tenant_id, b.event_type, b.aggregate_type, b.aggregate_id,
            CASE WHEN p.dead_at IS NULL THEN 'PENDING' ELSE 'DEAD' END AS status, p.attempts, p.last_error,
            p.last_status, p.created_at, p.dead_at AS ended_at,
            CASE WHEN p.next_attempt_at IS NULL OR NOT s.active THEN NULL
                 WHEN f.circuit_open AND p.next_attempt_at = (SELECT min(m.next_attempt_at) FROM relay.parked m
                                                               WHERE m.subscription_id = p.subscription_id AND m.replay_id IS NULL
                                                                 AND m.next_attempt_at IS NOT NULL)
                 THEN greatest(f.not_before, now()) ELSE greatest(p.next_attempt_at, f.not_before, now()) END AS next_attempt_at,
            p.dead_at IS NULL AND EXISTS (SELECT FROM relay.parked e
                     WHERE e.subscription_id = p.subscription_id AND e.lane = p.lane
                       AND (e.commit_lsn, e.row_index) < (p.commit_lsn, p.row_index)) AS waits,
            p.dead_at IS NOT NULL AS halts, NULL::integer AS duration_us, p.history, p.replay_id,
            p.sequence, p.xid, p.commit_lsn::text, p.dead_at IS NULL AND NOT s.active AS held
       FROM relay.parked p JOIN relay.bodies b USING (commit_lsn, event_id)
       LEFT JOIN relay.subscriptions s ON s.id = p.subscription_id LEFT JOIN relay.failing f ON f.subscription_id = s.id
      WHERE ($1 = '' OR ($1 = 'PENDING' AND p.dead_at IS NULL) OR ($1 = 'DEAD' AND p.dead_at IS NOT NULL)) AND ($2 = '' OR b.tenant_id = $2) AND ($3 = '' OR b.event_type = $3)
        AND ($10 = '' OR b.aggregate_type = $10) AND ($11 = '' OR b.aggregate_id = $11)
        AND ($4::uuid IS NULL OR p.subscription_id = $4) AND ($12::uuid[] IS NULL OR p.subscription_id = ANY ($12)) AND p.id >= $5 AND p.id < $6
      ORDER BY p.id DESC LIMIT $9)
    UNION ALL
    (SELECT d.id, d.event_id, d.subscription_id, d.tenant_id, d.event_type, d.aggregate_type, d.aggregate_id,
            d.status, d.attempts, d.last_error, d.last_status, d.created_at, d.ended_at,
            NULL, false, false, d.duration_us, d.history, d.replay_id,
            d.sequence, d.xid, d.commit_lsn::text, false
       FROM relay.deliveries d
      WHERE $1 <> 'PENDING' AND ($1 = '' OR d.status = $1) AND ($2 = '' OR d.tenant_id = $2)
        AND ($3 = '' OR d.event_type = $3)
        AND ($10 = '' OR d.aggregate_type = $10) AND ($11 = '' OR d.aggregate_id = $11) AND ($4::uuid IS NULL OR d.subscription_id = $4)
        AND d.id >= $5 AND d.id < $6 AND d.created_at >= $7 AND d.created_at < $8
      ORDER BY d.id DESC LIMIT $9)
) AS u
  LEFT JOIN relay.subscriptions s ON s.id = u.subscription_id
 ORDER BY u.id DESC LIMIT $9
