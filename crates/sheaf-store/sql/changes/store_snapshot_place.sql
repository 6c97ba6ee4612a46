-- Purpose: how far a sink holds its snapshot. Only further, and only from the slot's last reader.
-- Parameters: the slot's name, the sink's, the reader's number, step, step_range, after_tenant, after_number, after_time,
--   after_seq, snapshot_ordinal, now. Index: change_sinks_pkey. Locks: the row.
UPDATE sheaf.change_sinks s
SET step = $4::text, step_range = $5::integer, after_tenant = $6::bigint, after_number = $7::bigint, after_time = $8::timestamptz,
    after_seq = $9::smallint, snapshot_ordinal = $10::bigint, stored_at = $11::timestamptz
FROM sheaf.change_slots r
WHERE s.slot_name = $1::text AND s.sink_name = $2::text AND r.slot_name = s.slot_name AND r.reader = $3::bigint
    AND s.snapshot_ordinal <= $10::bigint
RETURNING s.sink_name
