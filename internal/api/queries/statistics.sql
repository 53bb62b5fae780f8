-- Of the tenant's latest deliveries since a time, up to a number of them, those to one subscription.
WITH latest AS (
    SELECT d.subscription_id, d.status, d.attempts, d.duration_us, d.id
      FROM relay.deliveries d
     WHERE d.tenant_id = $1 AND d.id >= $3 AND d.created_at >= $4
     ORDER BY d.id DESC LIMIT $5
), own AS (
    SELECT * FROM latest WHERE subscription_id = $2
)
SELECT count(*) FILTER (WHERE status = 'DELIVERED'), count(*) FILTER (WHERE status = 'DELIVERED' AND attempts <= 1),
       count(*) FILTER (WHERE status = 'DEAD'), count(*) FILTER (WHERE status = 'CANCELLED'),
       percentile_disc(0.5) WITHIN GROUP (ORDER BY duration_us) FILTER (WHERE status = 'DELIVERED'),
       percentile_disc(0.95) WITHIN GROUP (ORDER BY duration_us) FILTER (WHERE status = 'DELIVERED'),
       (SELECT count(*) FROM latest) >= $5
  FROM own
