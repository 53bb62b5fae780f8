-- $3 to $5: what was read, which somebody may have changed since.
UPDATE relay.subscriptions
   SET next_secret = $2, next_secret_staged_at = clock_timestamp(), updated_at = now(),
       previous_secret = CASE WHEN previous_secret_expires_at > now() THEN previous_secret END,
       previous_secret_expires_at = CASE WHEN previous_secret_expires_at > now() THEN previous_secret_expires_at END
 WHERE id = $1 AND secret = $3 AND next_secret IS NOT DISTINCT FROM $4 AND previous_secret IS NOT DISTINCT FROM $5
