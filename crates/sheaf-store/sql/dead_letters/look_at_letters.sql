-- Purpose: how dead letters are, for administrators.
-- Parameters: their ids. Index: dead_letters_pkey. Locks: none.
SELECT letter_id, status, reason, detail
FROM sheaf.look_at_dead_letters($1::uuid[])
