-- Purpose: what the statistics say was done to late events, and the partitions that are attached and not on their way out, each with
--   where its rows are and what they say of it: one row without a partition where none is. The statistics come some seconds after
--   what they count, and begin at nothing after a crash.
-- Parameters: none. Index: the catalogue's own. Locks: none.
SELECT p.lower_bound, p.upper_bound, p.file_node, p.rows_added, p.rows_changed, l.late_added, l.late_changed
FROM (
    SELECT pg_stat_get_tuples_inserted(o.oid) AS late_added,
        pg_stat_get_tuples_updated(o.oid) + pg_stat_get_tuples_deleted(o.oid) AS late_changed
    FROM (SELECT 'sheaf.entity_events_late'::regclass::oid AS oid) o
) l
LEFT JOIN (
    SELECT a.lower_bound, a.upper_bound, pg_relation_filenode(c.oid)::bigint AS file_node,
        pg_stat_get_tuples_inserted(c.oid) AS rows_added,
        pg_stat_get_tuples_updated(c.oid) + pg_stat_get_tuples_deleted(c.oid) AS rows_changed
    FROM sheaf.list_attached_partitions() a
    JOIN pg_catalog.pg_class c ON c.relname = a.partition_name AND c.relnamespace = 'sheaf'::regnamespace
    JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid
    WHERE NOT i.inhdetachpending
) p ON true
ORDER BY p.lower_bound
