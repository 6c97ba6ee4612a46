-- Purpose: the times of which the history has all events that there are: those of partitions that are attached, and not on their way out.
-- Parameters: none. Index: the catalogue's own. Locks: none.
SELECT a.lower_bound, a.upper_bound
FROM sheaf.list_attached_partitions() a
JOIN pg_catalog.pg_class c ON c.relname = a.partition_name AND c.relnamespace = 'sheaf'::regnamespace
JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid
WHERE NOT i.inhdetachpending
ORDER BY a.lower_bound
