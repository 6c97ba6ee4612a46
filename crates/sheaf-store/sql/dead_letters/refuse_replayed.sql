-- Purpose: letters that their sink could still not take are open again, with the new reason.
-- Parameters: as arrays: the ids, reasons, details; now. Index: dead_letters_pkey. Locks: the rows, in order of id.
WITH held AS MATERIALIZED (
    SELECT l.letter_id FROM sheaf.dead_letters l
    WHERE l.letter_id = ANY ($1::uuid[]) AND l.status = 'replay_asked' ORDER BY l.letter_id FOR UPDATE
), refused AS (
    UPDATE sheaf.dead_letters l SET status = 'open', reason = n.reason, detail = n.detail
    FROM held h JOIN unnest($1::uuid[], $2::text[], $3::text[]) AS n (letter_id, reason, detail) ON n.letter_id = h.letter_id
    WHERE l.letter_id = h.letter_id
    RETURNING l.letter_id, l.reason, l.detail
)
INSERT INTO sheaf.dead_letter_actions (letter_id, acted_at, action, detail)
SELECT r.letter_id, $4::timestamptz, 'refuse', r.reason || ': ' || r.detail FROM refused r
