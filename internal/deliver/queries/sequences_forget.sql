DELETE FROM relay.sequences WHERE subscription_id = ANY ($1)
