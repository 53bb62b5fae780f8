DELETE FROM relay.changes WHERE id IN (SELECT id FROM relay.changes WHERE at < $1 ORDER BY at LIMIT $2)
