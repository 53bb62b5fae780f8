-- The bounds on created_at say the same as the id, of which it is the beginning; they are there for the partitions.
-- In a lane that halts, nothing ends that would give it its turn: it has it at once, and whether something in front of
-- it halts is looked at when it is loaded.
WITH dead AS (
    DELETE FROM relay.deliveries WHERE id = $1 AND status = 'DEAD' AND created_at >= $4 AND created_at < $5 RETURNING *
), counted AS (
    UPDATE relay.replays r SET dead = r.dead - 1 FROM dead d WHERE r.id = d.replay_id
)
INSERT INTO relay.parked (subscription_id, commit_lsn, row_index, event_id, id, lane, attempts, next_attempt_at,
                          last_error, last_status, history, created_at, replay_id)
SELECT subscription_id, commit_lsn, row_index, event_id, id, $2, 0,
       coalesce($3, (SELECT now() FROM relay.parked h
                      WHERE h.subscription_id = dead.subscription_id AND h.lane = $2 AND h.dead_at IS NOT NULL LIMIT 1)),
       last_error, last_status, history, created_at, replay_id
  FROM dead
    ON CONFLICT DO NOTHING
