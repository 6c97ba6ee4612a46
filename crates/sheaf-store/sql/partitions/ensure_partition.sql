-- Purpose: the partition that holds an instant, made where it is missing. In a transaction of its own.
-- Parameters: the instant. Locks: an advisory lock among creators, and SHARE UPDATE EXCLUSIVE on the parent for the
--   attachment, which lets readers and writers pass.
SELECT partition_name, lower_bound, upper_bound FROM sheaf.ensure_event_partition($1)
