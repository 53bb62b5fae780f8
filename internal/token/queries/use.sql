-- A token that is good, by the part of it that may stand in an index. That it was used is noted once a minute: a
-- busy caller must not cost a write with each call. Whether the hash is the right one, the caller compares.
WITH good AS (
    SELECT hash, id, role, tenant_id, description, created_at, expires_at, revoked_at, last_used_at
      FROM relay.tokens
     WHERE lookup = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
), used AS (
    UPDATE relay.tokens t SET last_used_at = now()
      FROM good
     WHERE t.id = good.id AND good.hash = $2 AND (good.last_used_at IS NULL OR good.last_used_at < now() - interval '1 minute')
)
SELECT hash, id, role, tenant_id, description, created_at, expires_at, revoked_at, last_used_at FROM good
