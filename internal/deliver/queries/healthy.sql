DELETE FROM relay.failing WHERE subscription_id = ANY ($1::uuid[])
