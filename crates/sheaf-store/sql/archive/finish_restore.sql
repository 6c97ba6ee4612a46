-- Purpose: put the partition that is archived last back into the history, from where it is read again, or stop its archive. False where
--   it is there.
-- Parameters: partition_name, now. Locks: the advisory lock of whoever detaches for an archive, then that among creators of partitions,
--   ACCESS EXCLUSIVE on the table.
SELECT sheaf.finish_restore($1, $2) AS is_done
