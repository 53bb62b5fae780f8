-- Rows that wait for the endpoint need not wait longer, now that it works again or is another one. At most so many at a
-- time, the first ones first. How many it were tells whether there are more.
WITH hurried AS (
    UPDATE relay.parked SET next_attempt_at = $2
     WHERE ctid = ANY (ARRAY(SELECT h.ctid
                               FROM unnest(ARRAY[false, true]) AS k(replay)
                              CROSS JOIN LATERAL (SELECT p.ctid, p.next_attempt_at FROM relay.parked p
                                                   WHERE p.subscription_id = $1 AND (p.replay_id IS NOT NULL) = k.replay
                                                     AND p.next_attempt_at > $2
                                                   ORDER BY p.next_attempt_at LIMIT $3) AS h
                              ORDER BY h.next_attempt_at LIMIT $3))
    RETURNING 1
)
SELECT count(*)::integer FROM hurried
