-- Purpose: the partitions as they were last counted.
-- Parameters: none. Index: none, all of them are read. Locks: none.
SELECT lower_bound, upper_bound, state, snapshot::text AS snapshot, taken_at, cutoff, file_node, rows_added, rows_changed,
    late_added, late_changed, read_whole_at
FROM sheaf.reconciled_ranges ORDER BY lower_bound
