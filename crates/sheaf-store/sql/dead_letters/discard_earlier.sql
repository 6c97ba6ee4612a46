-- Purpose: let go of what waits for a sink that begins anew: what there still is of it comes to it again. Their rows
--   are no part of it any more, and are not kept.
-- Parameters: the slot's name, the sink's, the timeline and lsn that it begins at, now. Index: dead_letters_waiting. Locks: the rows.
WITH discarded AS (
    UPDATE sheaf.dead_letters l SET status = 'discarded', payload = '{}', payload_bytes = 0, is_whole = false
    WHERE l.slot_name = $1::text AND l.sink_name = $2::text AND l.status IN ('open', 'replay_asked')
        AND (l.timeline, l.commit_lsn) < ($3::bigint, $4::text::pg_lsn)
    RETURNING l.letter_id
), written AS (
    INSERT INTO sheaf.dead_letter_actions (letter_id, acted_at, action, detail)
    SELECT d.letter_id, $5::timestamptz, 'discard', 'its sink began anew' FROM discarded d
)
SELECT count(*) AS discarded FROM discarded
