SELECT s.id, q.lane, q.commit_lsn::text, q.row_index, q.event_id, q.id, q.attempts, coalesce(q.last_error, ''),
       coalesce(q.last_status, 0), coalesce(q.history::text, ''), q.created_at,
       coalesce(b.tenant_id, ''), coalesce(b.event_type, ''), coalesce(b.aggregate_type, ''),
       coalesce(b.aggregate_id, ''), b.body
  FROM unnest($1::uuid[], $2::int[]) AS s(id, lim)
 CROSS JOIN LATERAL (SELECT h.lane FROM relay.parked h
                      WHERE h.subscription_id = s.id AND h.next_attempt_at <= $3 AND h.lane <> ALL ($4::bigint[])
                      ORDER BY h.next_attempt_at LIMIT s.lim) AS h
 CROSS JOIN LATERAL (SELECT * FROM relay.parked p
                      WHERE p.subscription_id = s.id AND p.lane = h.lane
                      ORDER BY p.commit_lsn, p.row_index LIMIT $5) AS q
  LEFT JOIN relay.bodies b ON b.commit_lsn = q.commit_lsn AND b.event_id = q.event_id
 ORDER BY s.id, q.lane, q.commit_lsn, q.row_index
