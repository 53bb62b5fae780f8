-- A subscription that is gone has no numbers any more.
INSERT INTO relay.sequences (subscription_id, recorded, ahead)
SELECT s.id, u.r, u.a::int8multirange
  FROM unnest($1::uuid[], $2::bigint[], $3::text[]) AS u(i, r, a) JOIN relay.subscriptions s ON s.id = u.i
    ON CONFLICT (subscription_id) DO UPDATE SET recorded = excluded.recorded, ahead = excluded.ahead
