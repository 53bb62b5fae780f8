-- The counts are those of all, each row has them.
WITH trouble AS (
    SELECT s.id, s.tenant_id, s.url, CASE WHEN f.circuit_open THEN 'circuit_open' ELSE 'failing' END AS state, f.since, NULL::text AS reason
      FROM relay.failing f JOIN relay.subscriptions s ON s.id = f.subscription_id WHERE s.active
    UNION ALL
    SELECT id, tenant_id, url, 'disabled', coalesce(disabled_at, updated_at), disabled_reason
      FROM relay.subscriptions WHERE NOT active AND disabled_reason ~ '^(gone|failing): '
), counted AS (
    SELECT *, count(*) FILTER (WHERE state <> 'disabled') OVER () AS failing, count(*) FILTER (WHERE state = 'disabled') OVER () AS disabled,
           row_number() OVER (PARTITION BY state = 'disabled' ORDER BY since, id) AS place
      FROM trouble
)
SELECT id, tenant_id, url, state, since, reason, failing, disabled FROM counted WHERE place <= $1
 ORDER BY state = 'disabled' DESC, since, id
