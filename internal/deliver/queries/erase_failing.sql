-- What an attempt has said of a subscription after that was removed, and the numbers of all that are gone: whose they were is
-- not known any more.
WITH numbers AS (
    DELETE FROM relay.sequences q WHERE NOT EXISTS (SELECT FROM relay.subscriptions s WHERE s.id = q.subscription_id)
)
DELETE FROM relay.failing f
 WHERE subscription_id = ANY ($1::uuid[]) AND NOT EXISTS (SELECT FROM relay.subscriptions s WHERE s.id = f.subscription_id)
