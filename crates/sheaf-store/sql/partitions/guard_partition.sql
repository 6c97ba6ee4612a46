-- Purpose: make a detached partition a guarded table of its own; again does nothing.
-- Parameters: partition_name. Locks: ACCESS EXCLUSIVE on that table, which nobody else uses.
SELECT sheaf.guard_detached_partition($1)
