-- Purpose: the first buckets of a range that hold a row, or one that names a key, oldest first: from each bucket to the
--   first row after it, so that a page of buckets costs as many probes and not a scan of the range.
-- Parameters: tenant_id, type, id, from (inclusive), to (exclusive), width in microseconds, an instant that a bucket
--   begins at, keys or null, buckets_max.
-- Index: entities_external_id_key; entity_events_pkey. Locks: none.
WITH RECURSIVE target AS MATERIALIZED (
    SELECT n.entity_id FROM sheaf.entities n WHERE n.tenant_id = $1 AND n.entity_type = $2 AND n.external_id = $3
), bucket (starts_at, place) AS (
    SELECT date_bin($6::bigint * interval '1 microsecond', (
        SELECT e.observed_at FROM sheaf.entity_events e
        WHERE e.tenant_id = $1 AND e.entity_id = (SELECT entity_id FROM target)
            AND e.observed_at >= $4 AND e.observed_at < $5 AND ($8::text[] IS NULL OR e.attrs ?| $8::text[])
        ORDER BY e.observed_at LIMIT 1), $7::timestamptz), 1::bigint
    UNION ALL
    SELECT date_bin($6::bigint * interval '1 microsecond', (
        SELECT e.observed_at FROM sheaf.entity_events e
        WHERE e.tenant_id = $1 AND e.entity_id = (SELECT entity_id FROM target)
            AND e.observed_at >= b.starts_at + $6::bigint * interval '1 microsecond' AND e.observed_at < $5
            AND ($8::text[] IS NULL OR e.attrs ?| $8::text[])
        ORDER BY e.observed_at LIMIT 1), $7::timestamptz), b.place + 1
    FROM bucket b WHERE b.starts_at IS NOT NULL AND b.place < $9
)
SELECT starts_at FROM bucket WHERE starts_at IS NOT NULL ORDER BY place
