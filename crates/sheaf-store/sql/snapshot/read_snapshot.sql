-- Purpose: what the snapshot of this transaction on the primary is: how far the write history has come, and the time before
--   which everything is in it. now() is the start of the transaction and so before its snapshot; the position is read after
--   the snapshot and so covers it. Neither position nor timeline on a standby, which was taken for the primary.
-- Parameters: none. Index: none. Locks: none.
SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn()::text END AS lsn,
    CASE WHEN NOT pg_is_in_recovery() THEN substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END AS timeline,
    now() AS read_at
