INSERT INTO relay.deliveries (id, created_at, tenant_id, subscription_id, event_id, event_type, aggregate_type,
                              aggregate_id, commit_lsn, row_index, status, attempts, last_error, last_status,
                              duration_us, ended_at, history, replay_id, sequence, xid, mark)
SELECT d, c, t, s, e, y, at, ai, l::pg_lsn, i, st, a, nullif(er, ''), nullif(hs, 0), du, en, nullif(h, '')::jsonb, nullif(r, 0),
       nullif(sq, 0), nullif(xi, 0), nullif(mk, 0)
  FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::uuid[], $5::uuid[], $6::text[], $7::text[], $8::text[],
              $9::text[], $10::int[], $11::text[], $12::int[], $13::text[], $14::int[], $15::int[],
              $16::timestamptz[], $17::text[], $18::bigint[], $19::bigint[], $20::bigint[], $21::bigint[])
       AS u(d, c, t, s, e, y, at, ai, l, i, st, a, er, hs, du, en, h, r, sq, xi, mk)
