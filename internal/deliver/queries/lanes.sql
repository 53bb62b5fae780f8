SELECT subscription_id, lane, count(*), min(next_attempt_at), max(replay_id), bool_or(dead_at IS NOT NULL) FROM relay.parked GROUP BY 1, 2
