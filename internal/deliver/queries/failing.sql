INSERT INTO relay.failing (subscription_id, since, warned_at, not_before, circuit_open)
SELECT s, b, w, n, o FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[], $5::boolean[]) AS u(s, b, w, n, o)
    ON CONFLICT (subscription_id) DO UPDATE
   SET since = excluded.since, warned_at = excluded.warned_at, not_before = excluded.not_before, circuit_open = excluded.circuit_open
