DELETE FROM relay.bodies b
 WHERE (b.keep_until IS NULL OR b.keep_until < now())
   AND NOT EXISTS (SELECT FROM relay.parked p WHERE p.commit_lsn = b.commit_lsn AND p.event_id = b.event_id)
