-- Rows that did not come through the stream, and may be there already, from a request that was carried out twice. What
-- comes back are the rows that these ops brought, also when an earlier try did, whose answer was lost.
WITH new AS (
    INSERT INTO relay.parked (subscription_id, commit_lsn, row_index, event_id, id, lane, attempts, next_attempt_at,
                              last_error, last_status, history, created_at, dead_at, replay_id, parked_at, sequence, xid, mark)
    SELECT s, l::pg_lsn, i, e, d, k, a, n, nullif(er, ''), nullif(st, 0), nullif(h, '')::jsonb, c, x, nullif(r, 0), p, nullif(sq, 0), nullif(xi, 0), nullif(mk, 0)
      FROM unnest($1::uuid[], $2::text[], $3::int[], $4::uuid[], $5::uuid[], $6::bigint[], $7::int[], $8::timestamptz[],
                  $9::text[], $10::int[], $11::text[], $12::timestamptz[], $13::timestamptz[], $14::bigint[],
                  $15::timestamptz[], $16::bigint[], $17::bigint[], $18::bigint[])
           AS u(s, l, i, e, d, k, a, n, er, st, h, c, x, r, p, sq, xi, mk)
        ON CONFLICT DO NOTHING
    RETURNING id, parked_at
)
SELECT id, parked_at FROM new
 UNION ALL
SELECT f.id, f.parked_at
  FROM unnest($1::uuid[], $2::text[], $3::int[], $6::bigint[], $15::timestamptz[]) AS u(s, l, i, k, p)
  JOIN relay.parked f ON f.subscription_id = u.s AND f.lane = u.k AND f.commit_lsn = u.l::pg_lsn AND f.row_index = u.i
                     AND f.parked_at = u.p
