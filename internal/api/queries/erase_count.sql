SELECT (SELECT count(*) FROM relay.changes WHERE tenant_id = $1 AND action <> $2),
       (SELECT count(*) FROM relay.idempotency WHERE tenant_id = $1)
