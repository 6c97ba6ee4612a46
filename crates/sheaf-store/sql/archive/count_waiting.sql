-- Purpose: how many events of a partition's time wait to be brought into the files of the lake; late ones are none of its.
-- Parameters: the catalogue, the first instant, the first after it. Index: lake_corrections_days. Locks: none.
SELECT count(*) AS waiting FROM sheaf.lake_corrections
WHERE catalog_name = $1 AND observed_at >= $2 AND observed_at < $3 AND seq < 16384
