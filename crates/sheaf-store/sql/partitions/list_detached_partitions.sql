-- Purpose: the partitions that were taken out of the history, or are on their way out, oldest first; without those whose
--   table somebody has dropped since.
-- Parameters: none. Index: the table is small. Locks: none.
SELECT partition_name, lower_bound, upper_bound, row_estimate, closed_at
FROM sheaf.detached_partitions
WHERE to_regclass(format('sheaf.%I', partition_name)) IS NOT NULL
ORDER BY lower_bound, partition_name
