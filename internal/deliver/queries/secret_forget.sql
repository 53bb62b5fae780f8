-- The relay does without them since they expired; this is not a change. A minute is for clocks that differ.
UPDATE relay.subscriptions SET previous_secret = NULL, previous_secret_expires_at = NULL
 WHERE previous_secret IS NOT NULL AND previous_secret_expires_at < now() - interval '1 minute'
