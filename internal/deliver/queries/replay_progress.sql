-- What a batch did for replays. A replay is done when all its rows are read and have ended; one that delivered nothing says why.
UPDATE relay.replays r
   SET cursor_key = CASE WHEN u.moved THEN u.k ELSE r.cursor_key END,
       cursor_id  = CASE WHEN u.moved THEN u.i ELSE r.cursor_id END,
       read_all = r.read_all OR u.ra, queued = r.queued + u.q, skipped = r.skipped + u.s,
       delivered = r.delivered + u.dl, dead = r.dead + u.de, cancelled = r.cancelled + u.ca, updated_at = now(),
       skips = CASE WHEN jsonb_array_length(u.sk::jsonb) = 0 OR jsonb_array_length(r.skips) >= $12 THEN r.skips
                    ELSE jsonb_path_query_array(r.skips || u.sk::jsonb, ('$[0 to ' || $12::integer - 1 || ']')::jsonpath) END,
       detail   = CASE WHEN NOT d.one OR r.delivered + u.dl > 0 THEN r.detail
                       WHEN r.dead + u.de > 0 THEN format('nothing was delivered: %s deliveries died', r.dead + u.de)
                       WHEN r.cancelled + u.ca > 0 THEN format('nothing was delivered: %s deliveries were cancelled', r.cancelled + u.ca)
                       WHEN r.skipped + u.s > 0 THEN format('nothing was delivered: rows that it skipped: %s', r.skipped + u.s)
                       ELSE 'nothing was delivered: the outbox held no row any more that the subscription wants' END,
       state    = CASE WHEN d.one THEN 'DONE' ELSE r.state END,
       ended_at = CASE WHEN d.one THEN now() ELSE r.ended_at END
  FROM unnest($1::bigint[], $2::boolean[], $3::bigint[], $4::text[], $5::boolean[], $6::bigint[], $7::bigint[],
              $8::bigint[], $9::bigint[], $10::bigint[], $11::text[])
       AS u(r, moved, k, i, ra, q, s, dl, de, ca, sk)
  JOIN relay.replays o ON o.id = u.r
 CROSS JOIN LATERAL (SELECT o.state = 'RUNNING' AND (o.read_all OR u.ra) AND
                            o.queued + u.q <= o.delivered + u.dl + o.dead + u.de + o.cancelled + u.ca AS one) AS d
 WHERE r.id = u.r
