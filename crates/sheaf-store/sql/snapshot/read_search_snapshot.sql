-- Purpose: as read_snapshot.sql, for sheaf_search, which sees no tenants.
-- Parameters: none. Index: none. Locks: none.
SELECT pg_current_wal_insert_lsn()::text AS lsn,
    substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) AS timeline,
    now() AS read_at
