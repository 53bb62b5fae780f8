-- What waits for one subscription, counted up to a number, and what is known of the one that waits longest.
SELECT (SELECT count(*) FROM (SELECT FROM relay.parked w WHERE w.subscription_id = $1 AND w.dead_at IS NULL LIMIT $2) AS counted),
       (SELECT min(p.next_attempt_at) FROM relay.parked p WHERE p.subscription_id = $1 AND p.next_attempt_at IS NOT NULL),
       o.created_at, e.last_error
  FROM (SELECT) AS one
  LEFT JOIN LATERAL (SELECT p.created_at FROM relay.parked p WHERE p.subscription_id = $1 AND p.dead_at IS NULL
                      ORDER BY p.id LIMIT 1) AS o ON true
  LEFT JOIN LATERAL (SELECT p.last_error FROM relay.parked p WHERE p.subscription_id = $1 AND p.last_error IS NOT NULL
                        AND p.next_attempt_at IS NOT NULL ORDER BY p.next_attempt_at DESC LIMIT 1) AS e ON true
