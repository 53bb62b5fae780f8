-- Bodies of events of a tenant's, while something waits that needs them.
SELECT b.commit_lsn::text, b.event_id, b.body
  FROM relay.bodies b JOIN unnest($2::text[], $3::uuid[]) AS u(l, e) ON b.commit_lsn = u.l::pg_lsn AND b.event_id = u.e
 WHERE b.tenant_id = $1
