-- Purpose: the interval of new partitions as it was last decided, and the memory that the server shares.
-- Parameters: none. Index: partition_intervals_pkey. Locks: none.
SELECT decision, interval_name, reason, decided_at, pg_size_bytes(current_setting('shared_buffers')) AS shared_bytes
FROM sheaf.partition_intervals ORDER BY decision DESC LIMIT 1
