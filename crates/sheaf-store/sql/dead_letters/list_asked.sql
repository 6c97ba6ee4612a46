-- Purpose: the letters of a sink that are to be offered to it again, oldest first, at most so many and of at most so many bytes, but at
--   least one.
-- Parameters: the slot's name, the sink's, letters_max, payload_bytes_max. Index: dead_letters_waiting. Locks: none.
WITH asked AS (
    SELECT letter_id, origin, timeline, commit_lsn, ordinal, xid, committed_at, payload, is_whole,
        row_number() OVER oldest_first AS place, sum(payload_bytes) OVER oldest_first AS bytes
    FROM sheaf.dead_letters
    WHERE slot_name = $1::text AND sink_name = $2::text AND status = 'replay_asked'
    WINDOW oldest_first AS (ORDER BY timeline, commit_lsn, ordinal)
)
SELECT letter_id, origin, timeline, commit_lsn::text, ordinal, xid, committed_at, payload, is_whole
FROM asked
WHERE place <= $3::bigint AND (place = 1 OR bytes <= $4::bigint)
ORDER BY place
