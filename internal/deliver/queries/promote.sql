-- The first row is looked up once a lane: a condition on each row of it would read all that waits behind.
UPDATE relay.parked p
   SET next_attempt_at = $3
  FROM unnest($1::uuid[], $2::bigint[]) AS u(s, k)
 CROSS JOIN LATERAL (SELECT f.commit_lsn, f.row_index FROM relay.parked f
                      WHERE f.subscription_id = u.s AND f.lane = u.k
                      ORDER BY f.commit_lsn, f.row_index LIMIT 1) AS h
 WHERE p.subscription_id = u.s AND p.lane = u.k AND p.commit_lsn = h.commit_lsn AND p.row_index = h.row_index
   AND p.next_attempt_at IS NULL AND p.dead_at IS NULL
