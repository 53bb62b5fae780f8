-- Newest first, before an id; the one with id $3 alone when that is not null.
SELECT r.public_id, r.subscription_id, r.events, r.from_at, r.to_at, r.rate, r.state, r.total, r.queued, r.skipped,
       r.delivered, r.dead, r.cancelled, r.created_at, r.ended_at, r.detail, r.skips, r.id
  FROM relay.replays r
 WHERE r.tenant_id = $1 AND r.public_id < $2 AND ($3::uuid IS NULL OR r.public_id = $3)
 ORDER BY r.public_id DESC LIMIT $4
