-- Purpose: make the slot of the change stream; it shows what commits from the position that is given back on. Waits for the
--   transactions that are running to end.
-- Parameters: the slot's name. Locks: none that writers meet.
SELECT lsn::text FROM pg_create_logical_replication_slot($1::text, 'pgoutput')
