UPDATE relay.parked SET next_attempt_at = $2 WHERE id = $1 AND next_attempt_at IS NOT NULL
