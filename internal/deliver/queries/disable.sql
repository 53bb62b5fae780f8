-- Unless it was changed since that was decided. Other hands than ours may change the URL alone. A new URL has done nothing.
UPDATE relay.subscriptions SET active = false, disabled_reason = $2, disabled_at = now(), updated_at = now()
 WHERE id = $1 AND active AND updated_at = $3 AND url = $4
