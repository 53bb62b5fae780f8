UPDATE relay.subscriptions SET active = false, disabled_reason = $2, updated_at = now() WHERE id = $1 AND active
