UPDATE relay.subscriptions
   SET active = $2, disabled_reason = CASE WHEN $2 THEN NULL ELSE $3 END, updated_at = now()
 WHERE id = $1
