SELECT id, spec FROM relay.replays WHERE subscription_id = $1 AND state = 'RUNNING'
