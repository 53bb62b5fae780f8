DELETE FROM relay.parked p
 USING unnest($1::uuid[], $2::bigint[], $3::text[], $4::int[]) AS u(s, k, l, i)
 WHERE p.subscription_id = u.s AND p.lane = u.k AND p.commit_lsn = u.l::pg_lsn AND p.row_index = u.i
