INSERT INTO relay.quarantine (commit_lsn, row_index, committed_at, reason, detail, event_id, tenant_id, event_type, raw)
VALUES ($1::text::pg_lsn, $2, $3, $4, $5, nullif($6, ''), nullif($7, ''), nullif($8, ''), $9)
ON CONFLICT (commit_lsn, row_index) DO UPDATE SET reason = excluded.reason, detail = excluded.detail
