UPDATE relay.parked p
   SET next_attempt_at = now()
 WHERE p.next_attempt_at IS NULL AND p.dead_at IS NULL
   AND NOT EXISTS (SELECT FROM relay.parked f
                    WHERE f.subscription_id = p.subscription_id AND f.lane = p.lane
                      AND (f.commit_lsn, f.row_index) < (p.commit_lsn, p.row_index))
