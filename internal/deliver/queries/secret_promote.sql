-- $3 to $5: what was read, which somebody may have changed since. $6: the old secret, NULL when it is not kept.
UPDATE relay.subscriptions
   SET secret = $2, next_secret = NULL, next_secret_staged_at = NULL, updated_at = now(),
       previous_secret = $6, previous_secret_expires_at = CASE WHEN $6::text IS NOT NULL THEN now() + make_interval(secs => $7) END
 WHERE id = $1 AND secret = $3 AND next_secret IS NOT DISTINCT FROM $4 AND previous_secret IS NOT DISTINCT FROM $5
