-- An endpoint that is enabled again begins anew, also when no relay runs that could forget its failures.
WITH forgiven AS (
    DELETE FROM relay.failing f
     USING relay.subscriptions s
     WHERE s.id = $1 AND f.subscription_id = s.id AND $2 AND NOT s.active
)
UPDATE relay.subscriptions
   SET active = $2, disabled_at = CASE WHEN $2 THEN NULL WHEN active THEN now() ELSE disabled_at END, disabled_reason = CASE WHEN $2 THEN NULL ELSE $3 END, updated_at = now()
 WHERE id = $1
