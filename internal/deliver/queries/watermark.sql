SELECT recorded FROM relay.sequences WHERE subscription_id = $1
