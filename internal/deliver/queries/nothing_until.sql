-- A number above one, up to which nothing is on record, as far as marks tell; at most $3, the watermark. What comes before a mark, or
-- before the watermark, by less than twice their distance $4 is left out of it: there may be something that has none.
SELECT least(coalesce((SELECT d.mark FROM relay.deliveries d WHERE d.subscription_id = $1 AND d.mark > 0 AND d.mark > $2 ORDER BY d.mark LIMIT 1), $3::bigint) - 2 * $4::bigint,
             coalesce((SELECT -d.mark - 1 FROM relay.deliveries d WHERE d.subscription_id = $1 AND d.mark < -$2::bigint ORDER BY d.mark DESC LIMIT 1), $3),
             coalesce((SELECT p.sequence - 1 FROM relay.parked p WHERE p.subscription_id = $1 AND p.sequence > $2 ORDER BY p.sequence LIMIT 1), $3))
