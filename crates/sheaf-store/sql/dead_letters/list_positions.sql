-- Purpose: the places of the letters of a sink after a position of the stream: what comes there again is a letter already.
-- Parameters: the slot's name, the sink's, timeline, commit_lsn and ordinal of the position, letters_max. Index: dead_letters_position.
--   Locks: none.
SELECT timeline, commit_lsn::text, ordinal
FROM sheaf.dead_letters
WHERE slot_name = $1::text AND sink_name = $2::text AND origin = 'stream'
    AND (timeline, commit_lsn, ordinal) > ($3::bigint, $4::text::pg_lsn, $5::bigint)
    AND status <> 'discarded'
ORDER BY timeline, commit_lsn, ordinal
LIMIT $6::bigint
