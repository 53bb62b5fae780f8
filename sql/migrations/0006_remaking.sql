-- A rescue that was cut off is known for one.

-- +goose Up

-- The slot is being made anew, and where it begins is not noted yet. A slot of this name that is there begins behind a
-- gap of which nothing else tells: a rescue writes this before it makes the slot, and takes it back together with its
-- position and its snapshot.
ALTER TABLE relay.progress ADD COLUMN remaking boolean NOT NULL DEFAULT false;
