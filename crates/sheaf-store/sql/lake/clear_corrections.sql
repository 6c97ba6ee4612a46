-- Purpose: forgets every event that waits: the lake begins anew.
-- Parameters: catalogue. Index: lake_corrections_days. Locks: the rows.
DELETE FROM sheaf.lake_corrections WHERE catalog_name = $1::text
