-- $2: what was read, which somebody may have changed since.
UPDATE relay.subscriptions SET previous_secret = NULL, previous_secret_expires_at = NULL, updated_at = now()
 WHERE id = $1 AND previous_secret = $2
