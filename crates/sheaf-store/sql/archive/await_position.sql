-- Purpose: note a position after the step of an archive that was done last, where none is noted. In a transaction after the step's.
-- Parameters: partition_name. Index: partition_archives_pkey. Locks: the row.
UPDATE sheaf.partition_archives
SET waiting_timeline = ('x' || substr(pg_walfile_name(n.lsn), 1, 8))::bit(32)::bigint, waiting_lsn = n.lsn
FROM (SELECT pg_current_wal_insert_lsn() AS lsn OFFSET 0) n
WHERE partition_name = $1 AND waiting_lsn IS NULL
