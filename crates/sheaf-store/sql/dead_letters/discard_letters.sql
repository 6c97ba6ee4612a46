-- Purpose: let go of dead letters, for administrators. Gives back those that were not settled.
-- Parameters: their ids, the key's id, now. Index: dead_letters_pkey. Locks: the rows, in order of id.
SELECT l.letter_id FROM sheaf.discard_dead_letters($1::uuid[], $2::text, $3::timestamptz) AS l (letter_id)
