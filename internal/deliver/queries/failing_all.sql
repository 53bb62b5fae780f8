SELECT subscription_id, since, warned_at, not_before, circuit_open FROM relay.failing
