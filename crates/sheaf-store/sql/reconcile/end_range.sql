-- Purpose: says that a partition is counted, and as of what.
-- Parameters: its first instant; the snapshot, when it was taken, the cutoff; file_node, rows_added, rows_changed, late_added,
--   late_changed as they were before; whether it was read whole. Index: reconciled_ranges_pkey. Locks: its row.
UPDATE sheaf.reconciled_ranges
SET state = 'counted', snapshot = $2::text::pg_snapshot, taken_at = $3::timestamptz, cutoff = $4::timestamptz, file_node = $5::bigint,
    rows_added = $6::bigint, rows_changed = $7::bigint, late_added = $8::bigint, late_changed = $9::bigint,
    read_whole_at = CASE WHEN $10::boolean THEN $3::timestamptz ELSE read_whole_at END
WHERE lower_bound = $1::timestamptz
