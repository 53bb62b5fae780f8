SELECT q.subscription_id, q.recorded, coalesce(lower(r), 0), coalesce(upper(r), 0), q.latest
  FROM relay.sequences q LEFT JOIN LATERAL unnest(q.ahead) AS r ON true
 ORDER BY 1, 3
