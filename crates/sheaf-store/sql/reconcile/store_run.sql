-- Purpose: remembers what a look at both sides came to.
-- Parameters: ended_at, outcome, cutoff, hours_differing, missing, extra, changed, shown, hidden. Index: none, there is one row.
--   Locks: that row.
UPDATE sheaf.reconcile_runs
SET ended_at = $1::timestamptz, outcome = $2::text, clean_at = CASE WHEN $2::text = 'clean' THEN $1::timestamptz ELSE clean_at END,
    cutoff = $3::timestamptz, hours_differing = $4::bigint, missing = $5::bigint, extra = $6::bigint, changed = $7::bigint,
    shown = $8::bigint, hidden = $9::bigint
