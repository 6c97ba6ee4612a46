-- Purpose: the indexes of a partition that no query may use: what an interrupted REINDEX .. CONCURRENTLY leaves behind.
-- Parameters: partition_name. Index: the catalogue's own. Locks: none.
SELECT c.relname::text AS index_name
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = to_regclass(format('sheaf.%I', $1::text)) AND NOT i.indisvalid
ORDER BY c.relname
