WITH gone AS (
    DELETE FROM relay.deliveries
     WHERE tenant_id = $1 AND id IN (SELECT id FROM relay.deliveries WHERE tenant_id = $1 ORDER BY id LIMIT $2) RETURNING 1
)
SELECT count(*) FROM gone
