-- Purpose: what every server on this database agrees on, and which cluster this is.
-- Parameters: none. Index: none, one row. Locks: none.
SELECT bucket_count, signing_key, (SELECT system_identifier FROM pg_control_system()) AS system_id
FROM sheaf.settings
