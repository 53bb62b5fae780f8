-- A dead delivery that is tried again, or a row out of the quarantine, may stand in
-- front of a row that has a time already. Then the front one's time counts, and
-- the lane is taken once. A row that was given up and halts its lane holds back itself and all behind it, and so does
-- one behind the first whose own time has not come. An endpoint whose circuit is open is tried by the soonest one, whatever time
-- that waits for; of those that have done so before their time, only when there is no other.
SELECT s.id, q.lane, q.commit_lsn::text, q.row_index, q.event_id, q.id, q.attempts, coalesce(q.last_error, ''),
       coalesce(q.last_status, 0), coalesce(q.history::text, ''), q.created_at,
       coalesce(b.tenant_id, ''), coalesce(b.event_type, ''), coalesce(b.aggregate_type, ''),
       coalesce(b.aggregate_id, ''), b.body,
       coalesce(q.replay_id, 0), coalesce(q.sequence, 0), coalesce(q.xid, 0), coalesce(q.mark, 0), q.next_attempt_at
  FROM unnest($1::uuid[], $2::int[], $6::int[], $7::boolean[], $8::timestamptz[])
       AS s(id, lim, depth, replay, until)
 CROSS JOIN LATERAL (SELECT h.lane FROM relay.parked h
                      WHERE h.subscription_id = s.id AND h.next_attempt_at <= s.until
                        AND (h.replay_id IS NOT NULL) = s.replay
                        AND (s.id, h.lane) NOT IN (SELECT x.s, x.k FROM unnest($4::uuid[], $5::bigint[]) AS x(s, k))
                        AND (h.next_attempt_at <= $3 OR (s.id, h.lane) NOT IN (SELECT x.s, x.k FROM unnest($9::uuid[], $10::bigint[]) AS x(s, k)))
                        AND NOT EXISTS (SELECT FROM relay.parked e
                                         WHERE e.subscription_id = h.subscription_id AND e.lane = h.lane
                                           AND (e.commit_lsn, e.row_index) < (h.commit_lsn, h.row_index)
                                           AND (e.next_attempt_at IS NOT NULL OR e.dead_at IS NOT NULL))
                      ORDER BY h.next_attempt_at LIMIT s.lim) AS h
 CROSS JOIN LATERAL (SELECT p.*, bool_or(p.dead_at IS NOT NULL OR coalesce(p.next_attempt_at > s.until, false)) OVER (ORDER BY p.commit_lsn, p.row_index) AS held
                       FROM (SELECT * FROM relay.parked r
                              WHERE r.subscription_id = s.id AND r.lane = h.lane
                              ORDER BY r.commit_lsn, r.row_index LIMIT s.depth) AS p) AS q
  LEFT JOIN relay.bodies b ON b.commit_lsn = q.commit_lsn AND b.event_id = q.event_id
 WHERE NOT q.held
 ORDER BY s.id, q.lane, q.commit_lsn, q.row_index
