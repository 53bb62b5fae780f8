SELECT subscription_id, lane, count(*), min(next_attempt_at) FROM relay.parked GROUP BY 1, 2
