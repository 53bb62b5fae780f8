-- A subscription that is gone has no numbers any more.
INSERT INTO relay.sequences (subscription_id, recorded, ahead, latest)
SELECT s.id, u.r, u.a::int8multirange, u.t
  FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::timestamptz[]) AS u(i, r, a, t) JOIN relay.subscriptions s ON s.id = u.i
    ON CONFLICT (subscription_id) DO UPDATE SET recorded = excluded.recorded, ahead = excluded.ahead, latest = excluded.latest
