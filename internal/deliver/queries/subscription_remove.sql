DELETE FROM relay.subscriptions WHERE id = $1
