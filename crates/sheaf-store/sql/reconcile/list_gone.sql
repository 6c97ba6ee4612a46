-- Purpose: the times of partitions that were taken out of the history, or are on their way out.
-- Parameters: none. Index: none, there are few. Locks: none.
SELECT d.lower_bound, d.upper_bound FROM sheaf.detached_partitions d
UNION
SELECT a.lower_bound, a.upper_bound FROM sheaf.partition_archives a WHERE a.state IN ('detached', 'verified', 'dropped')
ORDER BY 1
