-- Whether a replay of another subscription of the tenant's is running.
SELECT EXISTS (SELECT FROM relay.replays WHERE tenant_id = $1 AND subscription_id <> $2 AND state = 'RUNNING')
