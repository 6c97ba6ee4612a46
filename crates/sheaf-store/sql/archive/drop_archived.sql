-- Purpose: drop a partition that was detached and verified. False where that was done before.
-- Parameters: partition_name, now. Locks: the advisory lock among creators of partitions, ACCESS EXCLUSIVE on the table.
SELECT sheaf.drop_archived_partition($1, $2) AS is_done
