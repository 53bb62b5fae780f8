SELECT id FROM relay.requests WHERE id = ANY ($1::bigint[])
