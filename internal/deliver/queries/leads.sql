-- Whether a relay streams from here: the slot of one is in use.
SELECT EXISTS (SELECT FROM pg_replication_slots s JOIN relay.progress p ON p.slot = s.slot_name WHERE s.active)
