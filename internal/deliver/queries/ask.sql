INSERT INTO relay.requests (kind, target) SELECT $1, unnest($2::text[]) RETURNING id, target
