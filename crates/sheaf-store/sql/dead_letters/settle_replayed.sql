-- Purpose: letters that their sink has taken. What is settled already stays as it is; one that was discarded meanwhile was taken all
--   the same.
-- Parameters: the ids, now. Index: dead_letters_pkey. Locks: the rows, in order of id.
WITH held AS MATERIALIZED (
    SELECT l.letter_id FROM sheaf.dead_letters l
    WHERE l.letter_id = ANY ($1::uuid[]) AND l.status <> 'replayed' ORDER BY l.letter_id FOR UPDATE
), settled AS (
    UPDATE sheaf.dead_letters l SET status = 'replayed' FROM held h WHERE l.letter_id = h.letter_id RETURNING l.letter_id
), written AS (
    INSERT INTO sheaf.dead_letter_actions (letter_id, acted_at, action)
    SELECT s.letter_id, $2::timestamptz, 'replay' FROM settled s
)
SELECT s.letter_id FROM settled s
