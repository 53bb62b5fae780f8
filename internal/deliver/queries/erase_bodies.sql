-- A walk through all bodies, which have no index by tenant: looks at so many behind a place, deletes the tenant's among them,
-- and says where it came to, how many it has looked at and how many are gone.
WITH looked AS MATERIALIZED (
    SELECT commit_lsn, event_id, tenant_id FROM relay.bodies
     WHERE (commit_lsn, event_id) > ($2::text::pg_lsn, $3::uuid)
     ORDER BY commit_lsn, event_id LIMIT $4
), gone AS (
    DELETE FROM relay.bodies b
     USING looked l
     WHERE b.commit_lsn = l.commit_lsn AND b.event_id = l.event_id AND l.tenant_id = $1 RETURNING 1
)
SELECT commit_lsn::text, event_id, (SELECT count(*) FROM looked), (SELECT count(*) FROM gone)
  FROM looked ORDER BY looked.commit_lsn DESC, event_id DESC LIMIT 1
