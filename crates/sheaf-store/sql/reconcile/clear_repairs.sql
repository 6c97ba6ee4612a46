-- Purpose: forgets every repair: the lake begins anew.
-- Parameters: catalogue. Index: lake_repairs_days. Locks: the rows.
DELETE FROM sheaf.lake_repairs WHERE catalog_name = $1::text
