-- Purpose: an empty table for what comes back of a dropped partition. False where the partition's own is still there.
-- Parameters: partition_name. Locks: the advisory lock among creators of partitions, ACCESS EXCLUSIVE on the table.
SELECT sheaf.prepare_restored_partition($1) AS is_done
