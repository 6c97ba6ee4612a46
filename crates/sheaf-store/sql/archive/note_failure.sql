-- Purpose: why the step after a state of an archive was not done, for people. Not where it was done meanwhile.
-- Parameters: partition_name, the state, the reason, now. Index: partition_archives_pkey. Locks: the row.
UPDATE sheaf.partition_archives SET failure = $3, failed_at = $4 WHERE partition_name = $1 AND state = $2
