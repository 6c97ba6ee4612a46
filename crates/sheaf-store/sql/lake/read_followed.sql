-- Purpose: how far a sink of the change stream whose snapshot has ended is fed: everything below is in it or was never for it.
-- Parameters: the slot's name, the sink's. Index: change_sinks_pkey, change_slots_pkey. Locks: none.
SELECT s.timeline, s.promised_lsn::text AS promised_lsn, k.snapshot_timeline AS base_timeline, k.snapshot_base::text AS base_lsn
FROM sheaf.change_sinks k JOIN sheaf.change_slots s ON s.slot_name = k.slot_name
WHERE k.slot_name = $1::text AND k.sink_name = $2::text AND k.step = 'done'
