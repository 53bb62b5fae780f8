SELECT subscription_id, since, warned_at FROM relay.failing
