-- Purpose: remembers what a look at both sides came to. One that could not compare them takes back nothing of what was found before.
-- Parameters: ended_at, outcome, cutoff, hours_differing, missing, extra, changed, shown, hidden. Index: none, there is one row.
--   Locks: that row.
UPDATE sheaf.reconcile_runs r
SET ended_at = $1::timestamptz, clean_at = CASE WHEN $2::text = 'clean' THEN $1::timestamptz ELSE r.clean_at END,
    outcome = CASE WHEN n.is_compared OR r.outcome IS DISTINCT FROM 'different' THEN $2::text ELSE r.outcome END,
    cutoff = CASE WHEN n.is_compared THEN $3::timestamptz ELSE r.cutoff END,
    hours_differing = CASE WHEN n.is_compared THEN $4::bigint ELSE r.hours_differing END,
    missing = CASE WHEN n.is_compared THEN $5::bigint ELSE r.missing END,
    extra = CASE WHEN n.is_compared THEN $6::bigint ELSE r.extra END,
    changed = CASE WHEN n.is_compared THEN $7::bigint ELSE r.changed END,
    shown = CASE WHEN n.is_compared THEN $8::bigint ELSE r.shown END,
    hidden = CASE WHEN n.is_compared THEN $9::bigint ELSE r.hidden END
FROM (SELECT $2::text <> 'not_compared' AS is_compared) n
