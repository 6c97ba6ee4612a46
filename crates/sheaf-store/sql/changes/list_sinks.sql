-- Purpose: how far each sink of a slot is: behind the furthest of them, and since when. One that holds less than the slot was
--   promised to forget lacks nothing up to there.
-- Parameters: the slot's name. Index: change_sinks_pkey. Locks: none.
SELECT s.sink_name, s.step, s.snapshot_ordinal, s.timeline, s.commit_lsn::text, s.ordinal,
    pg_wal_lsn_diff(max(greatest(s.commit_lsn, r.promised_lsn)) OVER (), greatest(s.commit_lsn, r.promised_lsn))::bigint
        AS behind_bytes,
    (extract(epoch FROM clock_timestamp() - s.stored_at) * 1000)::bigint AS still_ms
FROM sheaf.change_sinks s
JOIN sheaf.change_slots r USING (slot_name)
WHERE s.slot_name = $1::text
ORDER BY s.sink_name
LIMIT 100
