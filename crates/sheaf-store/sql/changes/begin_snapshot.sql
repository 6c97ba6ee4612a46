-- Purpose: begin the snapshot of a sink: what it sees, where it ends in the log, and the partitions that it reads, but for those
--   that are archived: the lake keeps what it has of them. Its rows bear the position just before its end: no record of the log begins there.
-- Parameters: the slot's name, the sink's, the reader's number, the timeline, now. Index: change_sinks_pkey. Locks: the row.
INSERT INTO sheaf.change_sinks AS s (slot_name, sink_name, snapshot, snapshot_taken_at, snapshot_timeline, snapshot_base,
    snapshot_until, range_lowers, range_uppers, step, step_range, after_tenant, after_number, after_seq, snapshot_ordinal, stored_at)
SELECT r.slot_name, $2::text, n.snapshot, $5::timestamptz, $4::bigint, n.until - 1, n.until, coalesce(p.lowers, '{}'),
    coalesce(p.uppers, '{}'), 'tenants', 0, -9223372036854775808, -9223372036854775808, -1, 0, $5::timestamptz
FROM sheaf.change_slots r
CROSS JOIN (SELECT pg_current_snapshot() AS snapshot, pg_current_wal_insert_lsn() AS until OFFSET 0) n
CROSS JOIN (SELECT array_agg(lower_bound ORDER BY lower_bound) AS lowers, array_agg(upper_bound ORDER BY lower_bound) AS uppers
    FROM sheaf.list_attached_partitions()
    WHERE upper_bound > (SELECT coalesce(archived_before, '-infinity') FROM sheaf.history_boundaries)) p
WHERE r.slot_name = $1::text AND r.reader = $3::bigint
ON CONFLICT (slot_name, sink_name) DO NOTHING
RETURNING sink_name
