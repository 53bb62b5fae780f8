-- An array, because a join would read all partitions for each part.
WITH gone AS (
    DELETE FROM relay.deliveries
     WHERE tenant_id = $1 AND id = ANY (ARRAY(SELECT id FROM relay.deliveries WHERE tenant_id = $1 ORDER BY id LIMIT $2)) RETURNING 1
)
SELECT count(*) FROM gone
