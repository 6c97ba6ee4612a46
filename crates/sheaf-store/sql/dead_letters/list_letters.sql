-- Purpose: a page of dead letters, newest first, for administrators.
-- Parameters: sink, reason and status, of which null leaves out; the letter before which the page begins, or null; letters_max.
--   Index: dead_letters_pkey, backwards. Locks: none.
SELECT letter_id, sink_name, timeline, commit_lsn, ordinal, reason, detail, received_at, status
FROM sheaf.list_dead_letters($1::text, $2::text, $3::text, $4::uuid, $5::integer)
