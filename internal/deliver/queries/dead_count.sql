-- The first condition is that of the index of what came to nothing.
SELECT count(*), count(*) FILTER (WHERE ended_at >= now() - interval '24 hours')
  FROM relay.deliveries WHERE status <> 'DELIVERED' AND status = 'DEAD'
