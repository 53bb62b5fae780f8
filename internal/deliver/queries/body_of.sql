-- The body of a delivery of a tenant's, while something waits that needs it. The bounds on created_at follow from the id.
SELECT b.body
  FROM relay.bodies b
  JOIN (SELECT p.commit_lsn, p.event_id FROM relay.parked p WHERE p.id = $2
        UNION ALL
        SELECT d.commit_lsn, d.event_id FROM relay.deliveries d WHERE d.id = $2 AND d.created_at >= $3 AND d.created_at < $4) AS of
    USING (commit_lsn, event_id)
 WHERE b.tenant_id = $1
 LIMIT 1
