-- Purpose: keep others from restoring while a partition is detached, which runs in no transaction, and whether it still is to be.
-- Parameters: partition_name. Index: partition_archives_pkey. Locks: an advisory one, until the transaction ends.
WITH held AS MATERIALIZED (SELECT pg_advisory_xact_lock(24239, -7))
SELECT EXISTS (SELECT FROM sheaf.partition_archives WHERE partition_name = $1 AND state = 'behind_boundary') AS is_wanted FROM held
