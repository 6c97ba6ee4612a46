-- Purpose: for statements after a page, which may go through everything that matches: workers as the session has them (null
--   resets), and memory in which the places of a few hundred thousand documents fit exactly: what does not fit is read whole and
--   tested again.
-- Parameters: none. Index: none. Locks: none.
SELECT set_config('max_parallel_workers_per_gather', NULL, true), set_config('work_mem', '32MB', true)
