-- A replay is stuck when its subscription has been disabled for so long and nothing of it has moved since, or when it is
-- disabled and the replay is very old: somebody enables it for a moment now and then.
SELECT r.id, r.subscription_id, r.tenant_id, r.events, r.from_at, r.to_at, r.rate, r.cancel, r.cursor_key, r.cursor_id,
       r.read_all, r.queued, r.delivered + r.dead + r.cancelled,
       coalesce(NOT s.active AND (greatest(coalesce(s.disabled_at, s.updated_at), r.updated_at) < now() - $1::interval
                               OR r.created_at < now() - 7 * $1::interval), false)
  FROM relay.replays r LEFT JOIN relay.subscriptions s ON s.id = r.subscription_id
 WHERE r.state = 'RUNNING'
 ORDER BY r.id
