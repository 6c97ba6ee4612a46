-- Purpose: what a server is at this moment, primary or standby: how far its history has come, on which timeline where that
--   can be said, its version and clock, and the last heartbeat that it shows.
-- Parameters: none. Index: none, one row. Locks: none.
SELECT pg_is_in_recovery() AS in_recovery,
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END::text AS lsn,
    CASE WHEN NOT pg_is_in_recovery() THEN substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END AS timeline,
    (SELECT system_identifier FROM pg_control_system()) AS system_id,
    current_setting('server_version_num')::integer AS server_version,
    pg_postmaster_start_time() AS started_at, clock_timestamp() AS clock,
    h.beat_at, h.timeline AS beat_timeline
FROM (VALUES (true)) one (row) LEFT JOIN sheaf.replication_heartbeat h ON h.only_row
