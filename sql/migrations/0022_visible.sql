-- What has once been an event stays one, and what a replay skips is named.

-- +goose Up

-- Rows that were discarded from the quarantine: never events, though their schema may be loosened, or not be asked any more.
-- They are kept for as long as the outbox may hold the row.
CREATE TABLE relay.discarded (
    event_id     text NOT NULL,
    tenant_id    text,
    reason       text NOT NULL,
    detail       text NOT NULL,
    committed_at timestamptz NOT NULL,
    discarded_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX discarded_event ON relay.discarded (event_id);
CREATE INDEX discarded_age ON relay.discarded (committed_at);
CREATE INDEX quarantine_event ON relay.quarantine (event_id);

-- Every row of the outbox that is no event, by the id that it has there.
CREATE VIEW relay.rejected AS
SELECT event_id, tenant_id, 'quarantined'::text AS status, reason, detail FROM relay.quarantine WHERE event_id IS NOT NULL AND only_for IS NULL
UNION ALL
SELECT event_id, tenant_id, 'discarded', reason, detail FROM relay.discarded;

-- The first rows that a replay skipped, each {"event_id", "reason", "detail"}.
ALTER TABLE relay.replays ADD COLUMN skips jsonb NOT NULL DEFAULT '[]';
