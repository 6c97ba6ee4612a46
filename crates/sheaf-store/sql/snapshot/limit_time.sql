-- Purpose: how long each further statement of this transaction may run.
-- Parameters: the time, such as 10s. Index: none. Locks: none.
SELECT set_config('statement_timeout', $1, true)
