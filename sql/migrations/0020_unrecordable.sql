-- What the database refuses to take is set aside, and everything else goes on.

-- +goose Up
-- raw        NULL: the row is not kept here, and is to be read from the outbox by its id
-- only_for   subscriptions whose delivery it is; NULL: the row, for all of them
-- row_bytes  size of what is not kept
-- xid        transaction that wrote the row, by which it is found; NULL: not known
ALTER TABLE relay.quarantine
    ALTER COLUMN raw DROP NOT NULL,
    ADD COLUMN only_for uuid[],
    ADD COLUMN row_bytes bigint,
    ADD COLUMN xid bigint;

-- Records of deliveries go by the time of their end, which may be long after the commit that names their partition. They
-- come nearly in its order, so a block range index costs the recording next to nothing.
CREATE INDEX deliveries_ended ON relay.deliveries USING brin (ended_at) WITH (pages_per_range = 32, autosummarize = on);
