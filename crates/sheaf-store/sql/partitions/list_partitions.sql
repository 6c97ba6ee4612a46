-- Purpose: the partitions of the history with their bounds, as the database knows them.
-- Parameters: none. Index: the catalogue's own. Locks: none.
SELECT partition_name, lower_bound, upper_bound FROM sheaf.event_partitions ORDER BY lower_bound
