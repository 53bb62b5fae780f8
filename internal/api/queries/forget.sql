-- A few at a time, so that no call pays for a day's keys. What another call is forgetting is left to it.
DELETE FROM relay.idempotency
 WHERE (tenant_id, operation, key) IN (SELECT tenant_id, operation, key FROM relay.idempotency
                                        WHERE created_at < $1 ORDER BY created_at LIMIT 100 FOR UPDATE SKIP LOCKED)
