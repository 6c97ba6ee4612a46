-- Purpose: forget how far the sinks of a slot are: they begin anew. What they hold is theirs to keep or to drop.
-- Parameters: the slot's name. Index: change_sinks_pkey. Locks: the rows.
DELETE FROM sheaf.change_sinks WHERE slot_name = $1::text
