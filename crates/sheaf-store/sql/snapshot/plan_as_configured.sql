-- Purpose: what plan_singly.sql sets, as the session has it: for statements after a page, which may go through everything.
-- Parameters: none. Index: none. Locks: none.
SET LOCAL max_parallel_workers_per_gather TO DEFAULT
