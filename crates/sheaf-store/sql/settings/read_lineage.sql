-- Purpose: which lineage this transaction reads and writes. It cannot change before the transaction ends. No timeline on a
--   standby, which may be promoted at any time.
-- Parameters: none. Index: none. Locks: none.
SELECT (SELECT system_identifier FROM pg_control_system()) AS system_id,
    CASE WHEN NOT pg_is_in_recovery() THEN substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END AS timeline
