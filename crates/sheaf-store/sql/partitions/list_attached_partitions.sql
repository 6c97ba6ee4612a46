-- Purpose: the partitions of the history, those that are being taken out and still attached too, oldest first.
-- Parameters: none. Index: the catalogue's own. Locks: none.
SELECT partition_name, lower_bound, upper_bound FROM sheaf.list_attached_partitions() ORDER BY lower_bound
