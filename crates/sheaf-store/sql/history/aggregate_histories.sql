-- Purpose: as aggregate_buckets.sql, of several entities: each for itself, or all as one series (entity_id 0).
--   numbered: the rows, and whether a later row of the same entity and instant follows.
--   facts: their values, without those that a later row of the instant says again, replaces or deletes.
-- Parameters: tenant_id, entity_ids, from (inclusive), to (exclusive), width in microseconds, an instant that a bucket
--   begins at, keys, their types, whether the first and last values are wanted, whether all are one series, rows_max,
--   from when on each key is wanted.
-- Index: entity_events_pkey; the bounds on the time prune partitions. Locks: none.
WITH numbered AS (
    SELECT e.entity_id, e.observed_at, e.seq, e.attrs,
        lead(e.observed_at) OVER (PARTITION BY e.entity_id ORDER BY e.observed_at, e.seq)
            IS NOT DISTINCT FROM e.observed_at AS has_later
    FROM sheaf.entity_events e
    WHERE e.tenant_id = $1 AND e.entity_id = ANY ($2::bigint[]) AND e.observed_at >= $3 AND e.observed_at < $4
), facts AS (
    SELECT CASE WHEN $10 THEN 0 ELSE r.entity_id END AS entity_id,
        date_bin($5::bigint * interval '1 microsecond', r.observed_at, $6::timestamptz) AS starts_at,
        k.key, k.type, j.value,
        CASE WHEN k.type IN ('int', 'float', 'decimal') THEN j.value::numeric END AS number,
        CASE WHEN $9 THEN to_char(r.observed_at AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISSUS') || j.value::text END
            COLLATE "C" AS timed
    FROM numbered r
    CROSS JOIN LATERAL jsonb_each(r.attrs) j
    JOIN unnest($7::text[], $8::text[], $12::timestamptz[]) AS k (key, type, shown_from) ON k.key = j.key AND r.observed_at >= k.shown_from
    WHERE jsonb_typeof(j.value) <> 'null'
        AND (NOT r.has_later OR NOT EXISTS (
            SELECT FROM sheaf.entity_events l
            WHERE l.tenant_id = $1 AND l.entity_id = r.entity_id AND l.observed_at = r.observed_at AND l.seq > r.seq
                AND (l.op IN ('r', 'd') OR l.attrs ? j.key)))
)
SELECT f.entity_id, f.starts_at, f.key, count(*) AS count, min(f.number)::text AS min, max(f.number)::text AS max,
    sum(f.number)::text AS sum,
    substr(min(f.timed), 21) AS first, substr(max(f.timed), 21) AS last
FROM facts f
GROUP BY f.entity_id, f.starts_at, f.key, f.type
LIMIT $11
