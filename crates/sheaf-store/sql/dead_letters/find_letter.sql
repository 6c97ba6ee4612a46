-- Purpose: one dead letter with its payload, for administrators.
-- Parameters: its id. Index: dead_letters_pkey. Locks: none.
SELECT letter_id, sink_name, timeline, commit_lsn, ordinal, reason, detail, received_at, status, tenant, committed_at, is_whole, payload
FROM sheaf.find_dead_letter($1::uuid)
