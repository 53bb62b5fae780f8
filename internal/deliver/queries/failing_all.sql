SELECT subscription_id, since, warned_at, not_before FROM relay.failing
