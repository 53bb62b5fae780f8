-- At most so many at a time. How many it were tells whether there are more.
WITH gone AS (
    DELETE FROM relay.subscriptions
     WHERE id IN (SELECT id FROM relay.subscriptions WHERE tenant_id = $1 ORDER BY id LIMIT $2) RETURNING id
), forgotten AS (
    DELETE FROM relay.failing f USING gone g WHERE f.subscription_id = g.id
)
SELECT count(*) FROM gone
