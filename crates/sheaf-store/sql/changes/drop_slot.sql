-- Purpose: remove a slot that shows less than it should, or too little too late. One that somebody follows is not removed.
-- Parameters: the slot's name. Locks: none.
SELECT pg_drop_replication_slot(s.slot_name) FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = $1::text
