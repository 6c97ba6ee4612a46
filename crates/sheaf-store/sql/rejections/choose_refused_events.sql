-- Purpose: refused events to try again, oldest first, each with everything that is still open of it. At most so many
--   refusals are chosen, of events of at most so many bytes, but at least one event; found counts the refusals that
--   might have been chosen and one more, events those of which the bound on bytes may have left some out.
-- Parameters: tenant_id; then of these one, the others null: rejection_ids, batch_id, code; the rejection_id after
--   which to begin, or null; rejections_max, raw_bytes_max.
-- Index: rejections_pkey; rejections_batch_key. Locks: none.
WITH candidates AS (
    SELECT rejection_id, batch_id, event_index
    FROM sheaf.rejections
    WHERE tenant_id = $1 AND status = 'open'
        AND ($2::uuid[] IS NULL OR rejection_id = ANY ($2))
        AND ($3::uuid IS NULL OR batch_id = $3)
        AND ($4::text IS NULL OR code = $4)
        AND ($5::uuid IS NULL OR rejection_id > $5)
    ORDER BY rejection_id
    LIMIT $6 + 1
), chosen AS (
    SELECT rejection_id, batch_id, event_index, count(*) OVER () AS found
    FROM candidates
    ORDER BY rejection_id
    LIMIT $6
), events AS (
    -- min() and max() of uuids come with PostgreSQL 18.
    SELECT batch_id, event_index, (array_agg(rejection_id ORDER BY rejection_id DESC))[1] AS last_id,
        max(found) AS found
    FROM chosen
    GROUP BY batch_id, event_index
), whole AS (
    -- Looked up event by event: a join could be planned as a scan of the whole table.
    SELECT e.batch_id, e.event_index, e.last_id, e.found, r.*
    FROM events e CROSS JOIN LATERAL (
        SELECT array_agg(o.rejection_id ORDER BY o.ordinal) FILTER (WHERE o.status = 'open') AS open_ids,
            array_agg(o.field ORDER BY o.ordinal) FILTER (WHERE o.status = 'open') AS open_fields,
            (array_agg(o.code ORDER BY o.ordinal) FILTER (WHERE o.status = 'open'))[1] AS code,
            (array_agg(o.reason ORDER BY o.ordinal) FILTER (WHERE o.status = 'open'))[1] AS reason,
            (array_agg(o.raw ORDER BY o.ordinal))[1] AS raw, min(o.received_at) AS received_at,
            max(o.entity_type) AS entity_type, max(o.format) AS format, max(o.precision) AS precision, max(o.id_tags::text) AS id_tags,
            -- A refusal of the event as a whole has no rest, whatever single values were refused before it.
            CASE WHEN bool_and(o.external_id IS NOT NULL) THEN max(o.external_id) END AS external_id,
            CASE WHEN bool_and(o.external_id IS NOT NULL) THEN max(o.observed_at) END AS observed_at
        FROM sheaf.rejections o
        WHERE o.tenant_id = $1 AND o.batch_id = e.batch_id AND o.event_index = e.event_index
    ) r
), measured AS (
    SELECT whole.*, row_number() OVER oldest_first AS place, sum(octet_length(raw)) OVER oldest_first AS raw_bytes,
        count(*) OVER () AS events
    FROM whole
    WINDOW oldest_first AS (ORDER BY last_id)
)
SELECT batch_id, event_index, last_id, found, events, open_ids, open_fields, code, reason, raw, received_at,
    entity_type, format, precision, id_tags, external_id, observed_at
FROM measured
WHERE place = 1 OR raw_bytes <= $7
ORDER BY last_id
