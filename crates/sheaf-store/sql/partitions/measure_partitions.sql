-- Purpose: the partitions of the history with their sizes, oldest first, for upkeep and for people.
-- Parameters: none. Index: the catalogue's own; sizes are asked of the files. Locks: ACCESS SHARE on each partition.
SELECT partition_name, lower_bound, upper_bound, accepts_writes, row_estimate, heap_bytes, index_bytes, invalid_indexes, vacuumed_at
FROM sheaf.measure_event_partitions() ORDER BY lower_bound
