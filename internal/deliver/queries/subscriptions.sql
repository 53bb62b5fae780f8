-- All of them, as scanSubscription reads them. What is wanted of them stands behind it where it is asked for.
SELECT s.id, s.tenant_id, s.url, s.events, s.secret, s.next_secret, s.next_secret_staged_at, s.previous_secret, s.previous_secret_expires_at,
       s.headers, s.client_certificate, s.description, s.ordering, s.on_dead, s.rate_limit, s.retry_schedule, s.timeout, s.format, s.filter, s.rules_since,
       s.active, s.disabled_reason, s.enabled_at, s.created_at, s.updated_at, f.since, f.warned_at
  FROM relay.subscriptions s LEFT JOIN relay.failing f ON f.subscription_id = s.id
