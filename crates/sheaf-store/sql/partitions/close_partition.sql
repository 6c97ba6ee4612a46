-- Purpose: close a partition to writes, before it is detached; again does nothing.
-- Parameters: partition_name, now. Locks: an advisory lock among creators of partitions.
SELECT sheaf.close_event_partition($1, $2)
