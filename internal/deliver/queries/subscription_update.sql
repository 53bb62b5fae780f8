UPDATE relay.subscriptions
   SET url = $2, events = $3, description = $4, ordering = $5, on_dead = $6, rate_limit = $7, retry_schedule = $8, format = $9,
       filter = $10, timeout = $11, updated_at = now()
 WHERE id = $1
