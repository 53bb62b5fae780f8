-- The bounds on created_at say the same as the id, of which it is the beginning; they are there for the partitions.
-- It has its turn at once, whatever a later one of its lane waits for, unless an earlier one waits for its own or halts
-- the lane. What comes back is whether it is there, also when an earlier try revived it, whose answer was lost.
WITH dead AS (
    DELETE FROM relay.deliveries WHERE id = $1 AND status = 'DEAD' AND created_at >= $4 AND created_at < $5 RETURNING *
), counted AS (
    UPDATE relay.replays r SET dead = r.dead - 1 FROM dead d WHERE r.id = d.replay_id
), new AS (
    INSERT INTO relay.parked (subscription_id, commit_lsn, row_index, event_id, id, lane, attempts, next_attempt_at,
                              last_error, last_status, history, created_at, replay_id, parked_at, sequence, xid, mark)
    SELECT subscription_id, commit_lsn, row_index, event_id, id, $2, 0,
           CASE WHEN NOT EXISTS (SELECT FROM relay.parked e
                                  WHERE e.subscription_id = dead.subscription_id AND e.lane = $2
                                    AND (e.commit_lsn, e.row_index) < (dead.commit_lsn, dead.row_index)
                                    AND (e.next_attempt_at IS NOT NULL OR e.dead_at IS NOT NULL))
                THEN $3::timestamptz END,
           last_error, last_status, history, created_at, replay_id, $6, sequence, xid, mark
      FROM dead
        ON CONFLICT DO NOTHING
    RETURNING id
)
SELECT EXISTS (SELECT FROM new) OR EXISTS (SELECT FROM relay.parked WHERE id = $1 AND parked_at = $6)
