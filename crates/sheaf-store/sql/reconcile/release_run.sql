-- Purpose: lets somebody else look at both sides.
-- Parameters: the runner. Index: none, there is one row. Locks: that row.
UPDATE sheaf.reconcile_runs SET runner = NULL, runs_until = NULL WHERE runner = $1::uuid
