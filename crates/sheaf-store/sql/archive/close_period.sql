-- Purpose: close the time up to the end of the oldest partition to writes. False where that was done before.
-- Parameters: partition_name, now. Locks: those of all buckets, then the advisory lock among creators of partitions.
SELECT sheaf.close_period($1, $2) AS is_done
