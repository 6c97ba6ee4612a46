-- Purpose: how long each further statement of this transaction may run, and that plans take no further workers, compile
--   nothing, and read no table of all tenants from its beginning. A page is milliseconds where an index leads to it, but the
--   planner does not know how few entities a condition on a document finds, and would do all three for it.
-- Parameters: the time, such as 10s. Index: none. Locks: none.
SELECT set_config('statement_timeout', $1, true), set_config('max_parallel_workers_per_gather', '0', true),
    set_config('jit', 'off', true), set_config('enable_seqscan', 'off', true)
