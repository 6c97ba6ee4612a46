-- Purpose: plans of this transaction take no further workers and compile nothing. A page is milliseconds where an index leads
--   to it, but the planner does not know how few entities a condition on a document finds, and would start both for it.
-- Parameters: none. Index: none. Locks: none.
SELECT set_config('max_parallel_workers_per_gather', '0', true), set_config('jit', 'off', true)
