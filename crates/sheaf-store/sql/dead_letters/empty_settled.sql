-- Purpose: forget the rows of letters that were settled before a moment; what was done with them stays. At most 1000, the oldest first.
-- Parameters: the moment. Index: dead_letters_settled, dead_letter_actions_letter_key. Locks: the rows, those that are locked left out.
WITH settled AS MATERIALIZED (
    SELECT l.letter_id FROM sheaf.dead_letters l
    WHERE l.status IN ('replayed', 'discarded') AND l.payload_bytes > 0 AND l.received_at < $1::timestamptz
        AND NOT EXISTS (SELECT FROM sheaf.dead_letter_actions a WHERE a.letter_id = l.letter_id AND a.acted_at >= $1::timestamptz)
    ORDER BY l.letter_id LIMIT 1000
    FOR UPDATE SKIP LOCKED
)
UPDATE sheaf.dead_letters l SET payload = '{}', payload_bytes = 0, is_whole = false
FROM settled s WHERE l.letter_id = s.letter_id
RETURNING l.letter_id
