-- Purpose: a page of refusals, newest first, at most so many and of at most so many bytes of events, but at least one;
--   found counts those that the page might have held and one more.
-- Parameters: tenant_id, then filters that null leaves out: batch_id, code, entity_type, status, from (inclusive), to
--   (exclusive); the rejection_id before which the page begins, or null; rejections_max, raw_bytes_max.
-- Index: rejections_pkey, backwards; rejections_batch_key. Locks: none.
WITH candidates AS (
    SELECT rejection_id, batch_id, event_index, field, code, reason, raw, received_at, status
    FROM sheaf.rejections
    WHERE tenant_id = $1
        AND ($2::uuid IS NULL OR batch_id = $2)
        AND ($3::text IS NULL OR code = $3)
        AND ($4::text IS NULL OR entity_type = $4)
        AND ($5::text IS NULL OR status = $5)
        AND ($6::timestamptz IS NULL OR received_at >= $6)
        AND ($7::timestamptz IS NULL OR received_at < $7)
        AND ($8::uuid IS NULL OR rejection_id < $8)
    ORDER BY rejection_id DESC
    LIMIT $9 + 1
), whole AS (
    -- The first refusal of an event holds it for all of them. A join could be planned as a scan of the whole table.
    SELECT c.rejection_id, c.batch_id, c.event_index, c.field, c.code, c.reason, c.received_at, c.status,
        coalesce(c.raw, (
            SELECT f.raw FROM sheaf.rejections f
            WHERE f.tenant_id = $1 AND f.batch_id = c.batch_id AND f.event_index = c.event_index AND f.ordinal = 0
        )) AS raw
    FROM candidates c
), measured AS (
    SELECT rejection_id, batch_id, event_index, field, code, reason, received_at, status, raw,
        row_number() OVER newest_first AS place,
        sum(octet_length(raw)) OVER newest_first AS raw_bytes,
        count(*) OVER () AS found
    FROM whole
    WINDOW newest_first AS (ORDER BY rejection_id DESC)
)
SELECT rejection_id, batch_id, event_index, field, code, reason, raw, received_at, status, found
FROM measured
WHERE place <= $9 AND (place = 1 OR raw_bytes <= $10)
ORDER BY rejection_id DESC
