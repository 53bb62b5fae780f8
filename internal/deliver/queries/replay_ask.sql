-- None comes back when a replay of the subscription is running.
INSERT INTO relay.replays (subscription_id, tenant_id, events, spec, from_at, to_at, rate, total)
SELECT s.id, s.tenant_id, $2, $3, $4, $5, $6, $7 FROM relay.subscriptions s WHERE s.id = $1
ON CONFLICT (subscription_id) WHERE state = 'RUNNING' DO NOTHING
RETURNING id
