-- Purpose: how far a sink holds the stream. Only further, and only from the slot's last reader.
-- Parameters: the slot's name, the sink's, the reader's number, timeline, commit_lsn, ordinal, now. Index: change_sinks_pkey.
-- Locks: the row.
UPDATE sheaf.change_sinks s
SET timeline = $4::bigint, commit_lsn = $5::text::pg_lsn, ordinal = $6::bigint, stored_at = $7::timestamptz
FROM sheaf.change_slots r
WHERE s.slot_name = $1::text AND s.sink_name = $2::text AND r.slot_name = s.slot_name AND r.reader = $3::bigint
    AND (s.timeline IS NULL OR (s.timeline, s.commit_lsn, s.ordinal) <= ($4::bigint, $5::text::pg_lsn, $6::bigint))
RETURNING s.sink_name
