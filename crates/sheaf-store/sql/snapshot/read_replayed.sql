-- Purpose: how far this standby has replayed, before a transaction takes its snapshot: what was replayed by then is in the
--   snapshot. The time of its start tells that the transaction is on the same server, also behind a pooler.
-- Parameters: none. Index: none. Locks: none.
SELECT pg_last_wal_replay_lsn()::text AS lsn, pg_postmaster_start_time() AS started_at
