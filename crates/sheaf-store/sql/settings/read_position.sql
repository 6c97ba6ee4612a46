-- Purpose: how far the write history has come: after a commit on the same connection, a position past that commit.
--   The timeline comes from the name of the log file: the control file still says the old one right after a promotion.
-- Parameters: none. Locks: none.
SELECT pg_current_wal_insert_lsn()::text AS lsn,
    substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) AS timeline,
    clock_timestamp() AS read_at
