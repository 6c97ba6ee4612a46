-- Purpose: what was last done with a dead letter, for administrators.
-- Parameters: its id, actions_max. Index: dead_letter_actions_letter_key. Locks: none.
SELECT acted_at, action, key_id, detail
FROM sheaf.list_dead_letter_actions($1::uuid, $2::integer)
