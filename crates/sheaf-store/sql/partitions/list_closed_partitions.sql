-- Purpose: the partitions of the history that servers may not write to, because they are being taken out.
-- Parameters: none. Index: the catalogue's own. Locks: none.
SELECT partition_name, lower_bound, upper_bound FROM sheaf.list_attached_partitions() WHERE NOT accepts_writes
ORDER BY lower_bound
