SELECT b.tenant_id, count(*)
  FROM relay.parked p JOIN relay.bodies b USING (commit_lsn, event_id)
 GROUP BY 1
 ORDER BY 2 DESC, 1
 LIMIT $1
