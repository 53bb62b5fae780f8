-- What waits for one subscription, looked at up to a number.
SELECT count(*), min(next_attempt_at), min(created_at), (array_agg(last_error ORDER BY next_attempt_at DESC) FILTER (WHERE last_error IS NOT NULL))[1]
  FROM (SELECT p.next_attempt_at, p.created_at, p.last_error FROM relay.parked p
         WHERE p.subscription_id = $1 AND p.dead_at IS NULL LIMIT $2) AS waiting
