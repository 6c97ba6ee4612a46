-- Purpose: the keyframes of some further entities of a partition that is closed; how many, 0 once all are written.
-- Parameters: partition_name, how many entities, now. Index: the partition's primary key, entity_keyframes_pkey,
--   entity_events_late_pkey. Locks: the archive's row.
SELECT sheaf.write_keyframes($1, $2, $3) AS written
