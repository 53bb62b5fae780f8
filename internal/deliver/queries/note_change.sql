-- Nothing is noted of a tenant that has been erased meanwhile.
INSERT INTO relay.changes (tenant_id, actor, action, target, after, request_id, address)
SELECT s.tenant_id, 'relay', $2, s.id::text, $3::jsonb, '', ''
  FROM relay.subscriptions s WHERE s.id = $1
