-- What was changed, but for the record of erasures.
DELETE FROM relay.changes
 WHERE id IN (SELECT id FROM relay.changes WHERE tenant_id = $1 AND action <> $3 ORDER BY id LIMIT $2)
