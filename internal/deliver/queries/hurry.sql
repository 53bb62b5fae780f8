-- Rows that wait for the endpoint need not wait longer, now that it works again.
UPDATE relay.parked SET next_attempt_at = $2 WHERE subscription_id = $1 AND next_attempt_at > $2
