DELETE FROM relay.requests WHERE id = ANY ($1::bigint[])
