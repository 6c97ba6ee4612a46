-- Purpose: how far a sink is.
-- Parameters: the slot's name, the sink's. Index: change_sinks_pkey. Locks: none.
SELECT snapshot::text, snapshot_taken_at, snapshot_timeline, snapshot_base::text, snapshot_until::text,
    range_lowers, range_uppers, step, step_range, after_tenant, after_number, after_time, after_seq, snapshot_ordinal,
    timeline, commit_lsn::text, ordinal
FROM sheaf.change_sinks WHERE slot_name = $1::text AND sink_name = $2::text
