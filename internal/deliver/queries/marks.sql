-- Between which times the deliveries of a subscription were committed that have numbers above one and up to another: what the
-- marks around them say. NULL: there is no mark.
SELECT (SELECT d.created_at FROM relay.deliveries d WHERE d.subscription_id = $1 AND d.mark > 0 AND d.mark <= $2 ORDER BY d.mark DESC LIMIT 1),
       (SELECT d.created_at FROM relay.deliveries d WHERE d.subscription_id = $1 AND d.mark > 0 AND d.mark > $3 ORDER BY d.mark LIMIT 1)
