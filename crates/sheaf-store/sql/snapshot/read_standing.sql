-- Purpose: what the snapshot of this transaction on a standby is: the last heartbeat in it, with its timeline, and a position
--   that covers it, since it is read after the snapshot: what is being replayed is seen a moment before the position moves,
--   so that one record beyond it counts too, where there is one. That it is still in recovery is asked after the snapshot too: a
--   server that was promoted before says so.
-- Parameters: none. Index: none, one row. Locks: none.
SELECT pg_is_in_recovery() AS in_recovery, r.replayed::text AS lsn, pg_last_wal_receive_lsn() > r.replayed AS is_behind,
    pg_postmaster_start_time() AS started_at, (SELECT system_identifier FROM pg_control_system()) AS system_id,
    h.beat_at, h.timeline AS beat_timeline
FROM (SELECT pg_last_wal_replay_lsn() AS replayed) r LEFT JOIN sheaf.replication_heartbeat h ON h.only_row
