-- Purpose: the partitions that were archived or are on their way, oldest first.
-- Parameters: none. Index: the table is small. Locks: none.
SELECT partition_name, lower_bound, upper_bound, state, keyframes, events, facts, digest, waiting_timeline, waiting_lsn::text AS waiting_lsn,
    closed_at, verified_at, dropped_at, restored_at, failure, failed_at
FROM sheaf.partition_archives ORDER BY lower_bound, partition_name
