SELECT subscription_id, lane, count(*), min(next_attempt_at), max(replay_id) FROM relay.parked GROUP BY 1, 2
