-- Purpose: the spans of time of the partitions that are attached, writable or not.
-- Parameters: none. Index: the catalogue's own. Locks: none.
SELECT lower_bound, upper_bound FROM sheaf.list_attached_partitions() ORDER BY lower_bound
