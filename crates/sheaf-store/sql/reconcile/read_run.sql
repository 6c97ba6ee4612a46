-- Purpose: what the last look at both sides came to.
-- Parameters: none. Index: none, there is one row. Locks: none.
SELECT ended_at, outcome, clean_at, cutoff, hours_differing, missing, extra, changed, shown, hidden, settled_tables
FROM sheaf.reconcile_runs
