-- Purpose: the slots of this database that are read as the change stream reads, with how much log they hold back and whether
--   they were made by it.
-- Parameters: none. Index: none, the server has few. Locks: none.
SELECT s.slot_name::text, s.active,
    CASE WHEN NOT pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::bigint END AS retained_bytes,
    r.slot_name IS NOT NULL AS is_ours
FROM pg_catalog.pg_replication_slots s
LEFT JOIN sheaf.change_slots r ON r.slot_name = s.slot_name::text
WHERE s.database = current_database() AND s.plugin = 'pgoutput' AND NOT s.temporary
ORDER BY s.slot_name
LIMIT 100
