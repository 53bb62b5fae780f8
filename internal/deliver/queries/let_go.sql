-- A dead delivery that halted its lane gives way, as it does where nothing halts. Its record, which goes by the time of its
-- end, and its body are kept from now on: it may have halted its lane for longer than they are.
WITH gone AS (
    DELETE FROM relay.parked WHERE id = $1 AND dead_at IS NOT NULL RETURNING *
), kept AS (
    UPDATE relay.bodies b SET keep_until = greatest(b.keep_until, $2)
      FROM gone g WHERE b.commit_lsn = g.commit_lsn AND b.event_id = g.event_id
)
INSERT INTO relay.deliveries (id, created_at, tenant_id, subscription_id, event_id, event_type, aggregate_type,
                              aggregate_id, commit_lsn, row_index, status, attempts, last_error, last_status,
                              ended_at, history, sequence, xid, mark)
SELECT g.id, g.created_at, b.tenant_id, g.subscription_id, g.event_id, b.event_type, b.aggregate_type,
       b.aggregate_id, g.commit_lsn, g.row_index, 'DEAD', g.attempts, g.last_error, g.last_status, now(), g.history,
       g.sequence, g.xid, g.mark
  FROM gone g JOIN relay.bodies b USING (commit_lsn, event_id)
