-- The bounds on created_at say the same as the ids, of which it is the beginning; they are there for the partitions.
SELECT count(*) FROM relay.deliveries
 WHERE id = ANY ($1::uuid[]) AND status = 'DEAD' AND ended_at < $2 AND created_at >= $3 AND created_at < $4
