-- Purpose: which transactions whoever asks now sees, and a position of the write history that was read after that: what reads a
--   later one sees them as well.
-- Parameters: none. Locks: none.
SELECT s.visible::text AS visible, pg_current_wal_insert_lsn()::text AS lsn,
    substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) AS timeline, clock_timestamp() AS read_at
FROM (SELECT pg_current_snapshot() AS visible) s
