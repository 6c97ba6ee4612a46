-- Purpose: become the one reader of a slot whose positions are taken.
-- Parameters: the slot's name. Index: change_slots_pkey. Locks: the row.
UPDATE sheaf.change_slots SET reader = reader + 1 WHERE slot_name = $1::text RETURNING reader, begins_at::text, timeline
