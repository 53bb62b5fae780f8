-- What a slot's progress belongs to is on record, so that a start with another table, publication or database is refused.

-- +goose Up

--   database, publication and outbox_table (schema.table) with their oids: what was read when the slot's first relay began. NULL: from
--                  before this migration; the next leader notes what it reads. A database or a table that was renamed keeps its oid
--   moved          somebody has moved the progress to another table, publication, database or slot, and the slot is not made yet
ALTER TABLE relay.progress
    ADD COLUMN database     text,
    ADD COLUMN database_oid oid,
    ADD COLUMN publication  text,
    ADD COLUMN outbox_table text,
    ADD COLUMN outbox_oid   oid,
    ADD COLUMN moved        boolean NOT NULL DEFAULT false;
