-- Purpose: a partition that reads do not ask any more is out of the history.
-- Parameters: partition_name, now. Index: partition_archives_pkey. Locks: the row.
UPDATE sheaf.partition_archives
SET state = 'detached', detached_at = $2, waiting_timeline = NULL, waiting_lsn = NULL, failure = NULL, failed_at = NULL
WHERE partition_name = $1 AND state = 'behind_boundary'
