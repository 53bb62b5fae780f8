UPDATE relay.parked p
   SET attempts = u.a, next_attempt_at = u.n, last_error = nullif(u.er, ''), last_status = nullif(u.st, 0),
       history = nullif(u.h, '')::jsonb, dead_at = u.x
  FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::int[], $5::int[], $6::timestamptz[], $7::text[],
              $8::int[], $9::text[], $10::timestamptz[])
       AS u(s, k, l, i, a, n, er, st, h, x)
 WHERE p.subscription_id = u.s AND p.lane = u.k AND p.commit_lsn = u.l::pg_lsn AND p.row_index = u.i
