-- Purpose: what the snapshot of this transaction is: how far the write history has come, and the time before which
--   everything is in it. now() is the start of the transaction and so before its snapshot; the position is read after
--   the snapshot and so covers it.
-- Parameters: none. Index: none. Locks: none.
SELECT pg_current_wal_insert_lsn()::text AS lsn,
    substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) AS timeline,
    now() AS read_at
