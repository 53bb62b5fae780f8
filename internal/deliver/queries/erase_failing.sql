-- What an attempt has said of a subscription after that was removed.
DELETE FROM relay.failing f
 WHERE subscription_id = ANY ($1::uuid[]) AND NOT EXISTS (SELECT FROM relay.subscriptions s WHERE s.id = f.subscription_id)
