-- Purpose: put a partition back into the history, or open one that was closed. Refused where other partitions hold its time.
-- Parameters: partition_name. Locks: an advisory lock among creators, ACCESS EXCLUSIVE on the table, SHARE UPDATE EXCLUSIVE
--   on the parent, which lets readers and writers pass.
SELECT sheaf.attach_event_partition($1)
