-- Purpose: write down how far the slot is about to be told that it can forget. Only further, and only by its last reader.
-- Parameters: the slot's name, the reader's number, the position. Index: change_slots_pkey. Locks: the row.
UPDATE sheaf.change_slots SET promised_lsn = greatest(promised_lsn, $3::text::pg_lsn)
WHERE slot_name = $1::text AND reader = $2::bigint
RETURNING promised_lsn::text
