SELECT id, secret, next_secret, previous_secret, headers, client_certificate FROM relay.subscriptions WHERE id > $1 ORDER BY id LIMIT $2
