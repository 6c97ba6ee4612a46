-- Purpose: forget how far one sink of a slot is: it begins anew.
-- Parameters: the slot's name, the sink's, the reader's number. Index: change_sinks_pkey. Locks: the row.
DELETE FROM sheaf.change_sinks s
USING sheaf.change_slots r
WHERE s.slot_name = $1::text AND s.sink_name = $2::text AND r.slot_name = s.slot_name AND r.reader = $3::bigint
