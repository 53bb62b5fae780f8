WITH forgotten AS (
    DELETE FROM relay.failing WHERE subscription_id = $1
)
DELETE FROM relay.subscriptions WHERE id = $1
