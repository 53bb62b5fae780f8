-- How many deliveries wait for a subscription.
SELECT count(*) FROM relay.parked WHERE subscription_id = $1 AND dead_at IS NULL
