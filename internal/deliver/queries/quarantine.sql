-- A row that is read from the table a second time may have the place of another one, which has its own by then. What is
-- only about some subscriptions is merged with what is kept of the same event for the same reason already, and leaves
-- its place to anything else that has it. It has another id then: the one before may be about to be deleted, by the
-- retry that has led to this.
INSERT INTO relay.quarantine AS q (commit_lsn, row_index, committed_at, reason, detail, event_id, tenant_id, event_type, raw, only_for, row_bytes, xid)
SELECT $1::text::pg_lsn,
       CASE WHEN $10::text[] IS NOT NULL AND EXISTS (SELECT FROM relay.quarantine o WHERE o.commit_lsn = $1::text::pg_lsn AND o.row_index = $2
                                                 AND (o.only_for IS NULL OR o.event_id IS DISTINCT FROM $6 OR o.reason <> $4))
            THEN (SELECT least(coalesce(min(o.row_index) FILTER (WHERE o.row_index > -1000000000), 0), 0) - 1
                    FROM relay.quarantine o WHERE o.commit_lsn = $1::text::pg_lsn)
            ELSE $2 END,
       $3, $4, $5, nullif($6, ''), nullif($7, ''), nullif($8, ''), $9, $10::text[]::uuid[], nullif($11::bigint, 0), nullif($12::bigint, 0)
ON CONFLICT (commit_lsn, row_index) DO UPDATE SET id = DEFAULT, committed_at = excluded.committed_at, reason = excluded.reason, detail = excluded.detail,
    event_id = excluded.event_id, tenant_id = excluded.tenant_id, event_type = excluded.event_type, raw = excluded.raw,
    row_bytes = excluded.row_bytes, xid = excluded.xid,
    only_for = CASE WHEN excluded.only_for IS NULL THEN NULL
                    ELSE (SELECT array_agg(DISTINCT s) FROM unnest(q.only_for || excluded.only_for) AS s) END
