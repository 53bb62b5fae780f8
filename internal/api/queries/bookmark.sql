-- Up to which number the deliveries of a subscription are on record, and up to which they have ended.
SELECT w.recorded, least(w.recorded, coalesce((SELECT min(p.sequence) - 1 FROM relay.parked p
                                                WHERE p.subscription_id = $1 AND p.sequence IS NOT NULL AND p.dead_at IS NULL), w.recorded))
  FROM (SELECT coalesce((SELECT recorded FROM relay.sequences WHERE subscription_id = $1), 0) AS recorded) AS w
