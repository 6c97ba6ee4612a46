-- Purpose: remember a slot that was just made, in the place of the one of that name before.
-- Parameters: slot_name, timeline, begins_at, now. Index: change_slots_pkey. Locks: the row.
INSERT INTO sheaf.change_slots AS s (slot_name, system_id, timeline, begins_at, promised_lsn, created_at)
SELECT $1::text, c.system_identifier, $2::bigint, $3::text::pg_lsn, $3::text::pg_lsn, $4::timestamptz FROM pg_control_system() c
ON CONFLICT (slot_name) DO UPDATE SET system_id = excluded.system_id, timeline = excluded.timeline, begins_at = excluded.begins_at,
    promised_lsn = excluded.promised_lsn, created_at = excluded.created_at
