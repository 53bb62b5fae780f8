-- $2: what was read, which somebody may have changed since.
UPDATE relay.subscriptions SET next_secret = NULL, next_secret_staged_at = NULL, updated_at = now()
 WHERE id = $1 AND next_secret = $2
