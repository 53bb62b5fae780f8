-- The head of each lane, found by one pass in the order of the primary key: a look from each row for one before it
-- takes the square of a lane's length.
UPDATE relay.parked p
   SET next_attempt_at = now()
  FROM (SELECT DISTINCT ON (subscription_id, lane) subscription_id, lane, commit_lsn, row_index, next_attempt_at, dead_at
          FROM relay.parked ORDER BY subscription_id, lane, commit_lsn, row_index) AS h
 WHERE h.next_attempt_at IS NULL AND h.dead_at IS NULL
   AND p.subscription_id = h.subscription_id AND p.lane = h.lane AND p.commit_lsn = h.commit_lsn AND p.row_index = h.row_index
