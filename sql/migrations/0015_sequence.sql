-- Deliveries are numbered, 1, 2, 3, ..., for each subscription on its own, so that a receiver can tell whether it has all.

-- +goose Up

--   sequence  number of the delivery; NULL: a replay's, or from before this migration
--   mark      the same on every 64th, and its negative on one that is out of the order of commit times; else NULL
--   xid       transaction that wrote its row into the outbox, by which the row is found there again; NULL: not known
ALTER TABLE relay.parked ADD COLUMN sequence bigint, ADD COLUMN mark bigint, ADD COLUMN xid bigint;
ALTER TABLE relay.deliveries ADD COLUMN sequence bigint, ADD COLUMN mark bigint, ADD COLUMN xid bigint;

-- An index with every number of what has ended would cost the recording a tenth of its speed. Between two marks deliveries are found by
-- their times, which the index of their tenant has (docs/decisions/0012).
CREATE INDEX deliveries_mark ON relay.deliveries (subscription_id, mark) WHERE mark IS NOT NULL;
CREATE INDEX parked_sequence ON relay.parked (subscription_id, sequence) WHERE sequence IS NOT NULL;

-- Which numbers are on record: all up to recorded, and those ahead. Written with the deliveries that have them. A leader
-- that takes over gives out those that are not, in the order in which events come again, which is the one before. latest is the
-- latest commit time of those on record.
CREATE TABLE relay.sequences (
    subscription_id uuid PRIMARY KEY,
    recorded        bigint NOT NULL,
    ahead           int8multirange NOT NULL,
    latest          timestamptz NOT NULL
) WITH (fillfactor = 50);
