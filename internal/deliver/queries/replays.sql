SELECT r.id, r.subscription_id, r.tenant_id, r.events, r.from_at, r.to_at, r.rate, r.state, r.detail, r.total, r.queued,
       r.skipped, r.delivered, r.dead, r.cancelled, r.read_all, r.cancel AND r.state = 'RUNNING', r.created_at,
       r.updated_at, r.ended_at, r.skips,
       (SELECT CASE WHEN s.active THEN '' ELSE coalesce(s.disabled_reason, 'disabled') END
          FROM relay.subscriptions s WHERE s.id = r.subscription_id)
  FROM relay.replays r
 WHERE $1 = 0 OR r.id = $1
 ORDER BY r.id DESC
 LIMIT $2
