-- Purpose: the interval of new partitions as it was last decided, the one that they get, which is wider where too many are
--   attached, how many are and may be, and the memory that the server shares.
-- Parameters: none. Index: partition_intervals_pkey; the catalogue's own. Locks: none.
SELECT i.decision, i.interval_name, i.reason, i.decided_at, n.bounded_name, n.attached, n.attached_max,
    pg_size_bytes(current_setting('shared_buffers')) AS shared_bytes
FROM sheaf.partition_intervals i CROSS JOIN sheaf.new_partition_interval() n
ORDER BY i.decision DESC LIMIT 1
