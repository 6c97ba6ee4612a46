-- Purpose: how many repairs wait.
-- Parameters: catalogue. Index: lake_repairs_days. Locks: none.
SELECT count(*) AS waiting FROM sheaf.lake_repairs WHERE catalog_name = $1::text
