SELECT public_id FROM relay.replays WHERE id = $1 AND tenant_id = $2
