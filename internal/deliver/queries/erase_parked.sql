-- While no relay leads, which would count these rows.
WITH gone AS (
    DELETE FROM relay.parked
     WHERE ctid = ANY (ARRAY(SELECT ctid FROM relay.parked WHERE subscription_id = ANY ($1::uuid[]) LIMIT $2)) RETURNING 1
)
SELECT count(*) FROM gone
