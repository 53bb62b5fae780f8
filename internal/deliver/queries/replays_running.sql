-- A replay is stuck when its subscription has been disabled for so long and nothing of it has moved since.
SELECT r.id, r.subscription_id, r.tenant_id, r.events, r.from_at, r.to_at, r.rate, r.cancel, r.cursor_key, r.cursor_id,
       r.read_all, r.queued, r.delivered + r.dead + r.cancelled,
       coalesce(NOT s.active AND greatest(s.updated_at, r.updated_at) < now() - $1::interval, false)
  FROM relay.replays r LEFT JOIN relay.subscriptions s ON s.id = r.subscription_id
 WHERE r.state = 'RUNNING'
 ORDER BY r.id
