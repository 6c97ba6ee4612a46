-- Purpose: begin a sink that needs no snapshot: what the slot may have been told to forget is over for it, and it gets what was
--   committed from there on, all of which the slot shows.
-- Parameters: the slot's name, the sink's, the reader's number, the timeline, now. Index: change_sinks_pkey. Locks: the row.
INSERT INTO sheaf.change_sinks AS s (slot_name, sink_name, snapshot, snapshot_taken_at, snapshot_timeline, snapshot_base,
    snapshot_until, range_lowers, range_uppers, step, step_range, after_tenant, after_number, after_seq, snapshot_ordinal, stored_at)
SELECT r.slot_name, $2::text, pg_current_snapshot(), $5::timestamptz, $4::bigint, r.promised_lsn - 1, r.promised_lsn, '{}', '{}',
    'done', 0, -9223372036854775808, -9223372036854775808, -1, 0, $5::timestamptz
FROM sheaf.change_slots r
WHERE r.slot_name = $1::text AND r.reader = $3::bigint
ON CONFLICT (slot_name, sink_name) DO NOTHING
RETURNING sink_name
