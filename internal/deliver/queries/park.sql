INSERT INTO relay.parked (subscription_id, commit_lsn, row_index, event_id, id, lane, attempts, next_attempt_at,
                          last_error, last_status, history, created_at, dead_at, replay_id, sequence, xid, mark)
SELECT s, l::pg_lsn, i, e, d, k, a, n, nullif(er, ''), nullif(st, 0), nullif(h, '')::jsonb, c, x, nullif(r, 0), nullif(sq, 0), nullif(xi, 0), nullif(mk, 0)
  FROM unnest($1::uuid[], $2::text[], $3::int[], $4::uuid[], $5::uuid[], $6::bigint[], $7::int[],
              $8::timestamptz[], $9::text[], $10::int[], $11::text[], $12::timestamptz[], $13::timestamptz[], $14::bigint[],
              $15::bigint[], $16::bigint[], $17::bigint[])
       AS u(s, l, i, e, d, k, a, n, er, st, h, c, x, r, sq, xi, mk)
    ON CONFLICT DO NOTHING
