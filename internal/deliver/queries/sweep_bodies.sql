WITH looked AS MATERIALIZED (
    SELECT commit_lsn, event_id FROM relay.bodies
     WHERE (commit_lsn, event_id) > ($1::text::pg_lsn, $2::uuid)
     ORDER BY commit_lsn, event_id LIMIT $3
), gone AS (
    DELETE FROM relay.bodies b
     USING looked l
     WHERE b.commit_lsn = l.commit_lsn AND b.event_id = l.event_id AND (b.keep_until IS NULL OR b.keep_until < now())
       AND NOT EXISTS (SELECT FROM relay.parked p WHERE p.commit_lsn = b.commit_lsn AND p.event_id = b.event_id)
)
SELECT commit_lsn::text, event_id, (SELECT count(*)::integer FROM looked)
  FROM looked ORDER BY looked.commit_lsn DESC, event_id DESC LIMIT 1
