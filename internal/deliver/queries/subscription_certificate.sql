UPDATE relay.subscriptions SET client_certificate = $2, updated_at = now() WHERE id = $1
