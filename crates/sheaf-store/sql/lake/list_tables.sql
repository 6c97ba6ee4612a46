-- Purpose: where the newest metadata of each table of a lake is.
-- Parameters: catalogue, namespace. Index: iceberg_tables_pkey. Locks: none.
SELECT table_name::text AS table_name, metadata_location::text AS metadata_location
FROM sheaf.iceberg_tables
WHERE catalog_name = $1::text AND table_namespace = $2::text AND metadata_location IS NOT NULL
ORDER BY table_name LIMIT 1000
