-- A row that is read from the table a second time may have the place of another one, which has its own by then.
INSERT INTO relay.quarantine (commit_lsn, row_index, committed_at, reason, detail, event_id, tenant_id, event_type, raw)
VALUES ($1::text::pg_lsn, $2, $3, $4, $5, nullif($6, ''), nullif($7, ''), nullif($8, ''), $9)
ON CONFLICT (commit_lsn, row_index) DO UPDATE SET committed_at = excluded.committed_at, reason = excluded.reason, detail = excluded.detail,
    event_id = excluded.event_id, tenant_id = excluded.tenant_id, event_type = excluded.event_type, raw = excluded.raw
