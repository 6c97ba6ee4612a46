-- Purpose: forget how far the sinks of a slot are that are not fed any more: what comes meanwhile is not held for them, so that
--   one that is fed again later begins anew.
-- Parameters: the slot's name, the reader's number, the sinks that are fed. Index: change_sinks_pkey. Locks: the rows.
DELETE FROM sheaf.change_sinks s
USING sheaf.change_slots r
WHERE s.slot_name = $1::text AND s.sink_name <> ALL ($3::text[]) AND r.slot_name = s.slot_name AND r.reader = $2::bigint
RETURNING s.sink_name
