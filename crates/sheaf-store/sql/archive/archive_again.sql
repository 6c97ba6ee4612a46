-- Purpose: begin again with a partition that was restored. It is closed, and what keyframes it has stay true.
-- Parameters: partition_name. Index: partition_archives_pkey. Locks: the row.
UPDATE sheaf.partition_archives
SET state = 'closed', waiting_timeline = NULL, waiting_lsn = NULL, failure = NULL, failed_at = NULL
WHERE partition_name = $1 AND state = 'restored'
