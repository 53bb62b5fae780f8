INSERT INTO relay.failing (subscription_id, since, warned_at)
SELECT s, b, w FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[]) AS u(s, b, w)
    ON CONFLICT (subscription_id) DO UPDATE SET since = excluded.since, warned_at = excluded.warned_at
