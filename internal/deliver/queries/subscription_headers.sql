UPDATE relay.subscriptions SET headers = $2, updated_at = now() WHERE id = $1
