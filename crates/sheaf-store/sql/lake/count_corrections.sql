-- Purpose: how many events wait, and since when the first of them.
-- Parameters: catalogue. Index: lake_corrections_days; reads all that wait. Locks: none.
SELECT count(*) AS waiting, min(noted_at) AS oldest_at FROM sheaf.lake_corrections WHERE catalog_name = $1::text
