-- Purpose: the table of a detached partition and the lake were found to hold the same, which is what they held before; or still do.
-- Parameters: partition_name, its events, facts and digest, now. Index: partition_archives_pkey. Locks: the row.
UPDATE sheaf.partition_archives
SET state = 'verified', verified_at = $5, waiting_timeline = NULL, waiting_lsn = NULL, failure = NULL, failed_at = NULL
WHERE partition_name = $1 AND state IN ('detached', 'verified') AND events = $2 AND facts = $3 AND digest = $4
RETURNING partition_name
