-- One that was given up and halts its lane begins its schedule anew.
UPDATE relay.parked
   SET next_attempt_at = $2, attempts = CASE WHEN dead_at IS NULL THEN attempts ELSE 0 END, dead_at = NULL
 WHERE id = $1 AND (next_attempt_at IS NOT NULL OR dead_at IS NOT NULL)
