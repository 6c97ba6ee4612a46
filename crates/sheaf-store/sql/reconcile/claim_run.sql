-- Purpose: becomes the one who looks at both sides, or stays it; no row where somebody else is.
-- Parameters: the runner; for how long, in seconds. Index: none, there is one row. Locks: that row.
UPDATE sheaf.reconcile_runs SET runner = $1::uuid, runs_until = clock_timestamp() + $2::bigint * interval '1 second'
WHERE runner IS NULL OR runner = $1::uuid OR runs_until < clock_timestamp()
RETURNING runs_until
