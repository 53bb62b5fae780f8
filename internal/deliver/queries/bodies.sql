INSERT INTO relay.bodies (commit_lsn, event_id, tenant_id, event_type, aggregate_type, aggregate_id, committed_at,
                          body, keep_until)
SELECT l::pg_lsn, e, t, y, at, ai, c, b, k
  FROM unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[],
              $8::bytea[], $9::timestamptz[])
       AS u(l, e, t, y, at, ai, c, b, k)
    ON CONFLICT (commit_lsn, event_id) DO UPDATE
       SET keep_until = greatest(relay.bodies.keep_until, excluded.keep_until)
     WHERE excluded.keep_until IS NOT NULL
