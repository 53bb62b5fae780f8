-- Rows of a subscription that halt their lanes, in order, behind a place.
SELECT id, lane, commit_lsn::text, row_index
  FROM relay.parked
 WHERE subscription_id = $1 AND (lane, commit_lsn, row_index) > ($2::bigint, $3::text::pg_lsn, $4::integer)
   AND dead_at IS NOT NULL
 ORDER BY lane, commit_lsn, row_index
 LIMIT $5
