-- Purpose: which transactions are visible now, and a position that covers all of them: it is read after the snapshot was taken.
-- Parameters: none. Index: none. Locks: none.
SELECT pg_current_snapshot()::text AS snapshot, clock_timestamp() AS taken_at, pg_current_wal_insert_lsn()::text AS lsn,
    substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) AS timeline
