-- Purpose: where a partition is on its way out of the history: no row where there is none of this name; is_attached,
--   is_pending where detaching it was interrupted.
-- Parameters: partition_name. Index: the catalogue's own. Locks: none.
SELECT i.inhrelid IS NOT NULL AS is_attached, coalesce(i.inhdetachpending, false) AS is_pending
FROM pg_catalog.pg_class c
LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = 'sheaf.entity_events'::regclass
WHERE c.relnamespace = 'sheaf'::regnamespace AND c.relname = $1
    AND (i.inhrelid IS NOT NULL OR EXISTS (SELECT FROM sheaf.detached_partitions d WHERE d.partition_name = $1))
