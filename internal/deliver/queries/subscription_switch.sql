-- Enabling says that the endpoint works, whether it was disabled or not: its failures are forgotten, also when no relay runs that could
-- do so. A disabled one that is disabled again keeps its reason, unless it is given another.
WITH forgiven AS (
    DELETE FROM relay.failing f
     USING relay.subscriptions s
     WHERE s.id = $1 AND f.subscription_id = s.id AND $2
)
UPDATE relay.subscriptions
   SET active = $2, disabled_at = CASE WHEN $2 THEN NULL WHEN active THEN now() ELSE disabled_at END,
       disabled_reason = CASE WHEN NOT $2 THEN coalesce(nullif($3, ''), disabled_reason) END,
       enabled_at = CASE WHEN $2 THEN clock_timestamp() ELSE enabled_at END, updated_at = now()
 WHERE id = $1
