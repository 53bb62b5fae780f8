WITH gone AS (
    DELETE FROM relay.replays
     WHERE id IN (SELECT id FROM relay.replays WHERE tenant_id = $1 ORDER BY id LIMIT $2) RETURNING 1
)
SELECT count(*) FROM gone
