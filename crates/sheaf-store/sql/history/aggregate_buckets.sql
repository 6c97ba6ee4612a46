-- Purpose: aggregates of each attribute in each bucket of a range, corrections applied; removals are no values.
--   numbered: the rows, and whether a later row of the same instant follows.
--   facts: their values, without those that a later row of the instant says again, replaces or deletes.
--   Numbers are exact until they are texts. The first and last values are the least and greatest of texts that begin
--   with the time in a fixed width: one pass, and no bucket's values are kept.
-- Parameters: tenant_id, type, id, from (inclusive), to (exclusive), width in microseconds, an instant that a bucket
--   begins at, keys, their types, whether the first and last values are wanted, rows_max, from when on
--   each key is wanted.
-- Index: entities_external_id_key; entity_events_pkey. Locks: none.
WITH numbered AS (
    SELECT e.entity_id, e.observed_at, e.seq, e.attrs,
        lead(e.observed_at) OVER (ORDER BY e.observed_at, e.seq) IS NOT DISTINCT FROM e.observed_at AS has_later
    FROM sheaf.entity_events e
    WHERE e.tenant_id = $1
        AND e.entity_id = (SELECT n.entity_id FROM sheaf.entities n
            WHERE n.tenant_id = $1 AND n.entity_type = $2 AND n.external_id = $3)
        AND e.observed_at >= $4 AND e.observed_at < $5
), facts AS (
    SELECT date_bin($6::bigint * interval '1 microsecond', r.observed_at, $7::timestamptz) AS starts_at,
        k.key, k.type, j.value,
        CASE WHEN k.type IN ('int', 'float', 'decimal') THEN j.value::numeric END AS number,
        CASE WHEN $10 THEN to_char(r.observed_at AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISSUS') || j.value::text END
            COLLATE "C" AS timed
    FROM numbered r
    CROSS JOIN LATERAL jsonb_each(r.attrs) j
    JOIN unnest($8::text[], $9::text[], $12::timestamptz[]) AS k (key, type, shown_from) ON k.key = j.key AND r.observed_at >= k.shown_from
    WHERE jsonb_typeof(j.value) <> 'null'
        AND (NOT r.has_later OR NOT EXISTS (
            SELECT FROM sheaf.entity_events l
            WHERE l.tenant_id = $1 AND l.entity_id = r.entity_id AND l.observed_at = r.observed_at AND l.seq > r.seq
                AND (l.op IN ('r', 'd') OR l.attrs ? j.key)))
)
SELECT f.starts_at, f.key, count(*) AS count, min(f.number)::text AS min, max(f.number)::text AS max,
    sum(f.number)::text AS sum,
    substr(min(f.timed), 21) AS first, substr(max(f.timed), 21) AS last
FROM facts f
GROUP BY f.starts_at, f.key, f.type
LIMIT $11
