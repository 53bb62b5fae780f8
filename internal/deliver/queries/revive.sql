WITH dead AS (
    DELETE FROM relay.deliveries WHERE id = $1 AND status = 'DEAD' RETURNING *
)
INSERT INTO relay.parked (subscription_id, commit_lsn, row_index, event_id, id, lane, attempts, next_attempt_at,
                          last_error, last_status, history, created_at)
SELECT subscription_id, commit_lsn, row_index, event_id, id, $2, 0, $3, last_error, last_status, history, created_at
  FROM dead
