-- Purpose: one beat, unless another server has beaten a moment ago; so the row is written as often by ten servers as by one.
--   A beat from the future, after the clock was set back, and one of another timeline do not count as a moment ago.
-- Parameters: how many microseconds a moment is. Index: none, one row. Locks: the row, until the end of the transaction.
UPDATE sheaf.replication_heartbeat h
SET beat_at = clock_timestamp(), timeline = t.timeline
FROM (
    SELECT ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::bigint AS timeline
) t
WHERE h.beat_at IS NULL OR h.timeline <> t.timeline
    OR h.beat_at NOT BETWEEN clock_timestamp() - make_interval(secs => $1::bigint / 1000000.0) AND clock_timestamp()
