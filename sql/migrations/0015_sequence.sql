-- Deliveries are numbered, 1, 2, 3, ..., for each subscription on its own, so that a receiver can tell whether it has all.

-- +goose Up

--   sequence  number of the delivery; NULL: a replay's, or from before this migration
--   xid       transaction that wrote its row into the outbox, by which the row is found there again; NULL: not known
ALTER TABLE relay.parked ADD COLUMN sequence bigint, ADD COLUMN xid bigint;
ALTER TABLE relay.deliveries ADD COLUMN sequence bigint, ADD COLUMN xid bigint;

-- The numbers of one subscription grow at one end, so that these cost little.
CREATE INDEX parked_sequence ON relay.parked (subscription_id, sequence) WHERE sequence IS NOT NULL;
CREATE INDEX deliveries_sequence ON relay.deliveries (subscription_id, sequence) WHERE sequence IS NOT NULL;

-- Which numbers are on record: all up to recorded, and those ahead. Written with the deliveries that have them. A leader
-- that takes over gives out those that are not, in the order in which events come again, which is the one before.
CREATE TABLE relay.sequences (
    subscription_id uuid PRIMARY KEY,
    recorded        bigint NOT NULL,
    ahead           int8multirange NOT NULL
) WITH (fillfactor = 50);
