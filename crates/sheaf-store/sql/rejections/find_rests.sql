-- Purpose: when events were observed that did not say so and of which a part is stored: the one instant that their
--   request brought their entity in the minute after it arrived; null where there is none, or more than one.
-- Parameters: tenant_id, then as arrays: batch_id, received_at, entity_type, external_id.
-- Index: entities_external_id_key, then entity_events' key in the partitions of these times. Locks: none.
SELECT r.observed_at
FROM unnest($2::uuid[], $3::timestamptz[], $4::text[], $5::text[]) WITH ORDINALITY
    AS w (batch_id, received_at, entity_type, external_id, place)
LEFT JOIN LATERAL (
    SELECT CASE WHEN count(DISTINCT e.observed_at) = 1 THEN min(e.observed_at) END AS observed_at
    FROM sheaf.entities n
    JOIN sheaf.entity_events e ON e.tenant_id = n.tenant_id AND e.entity_id = n.entity_id
    WHERE n.tenant_id = $1 AND n.entity_type = w.entity_type AND n.external_id = w.external_id
        AND e.tenant_id = $1 AND e.batch_id = w.batch_id
        AND e.observed_at >= w.received_at AND e.observed_at < w.received_at + interval '1 minute'
) r ON true
ORDER BY w.place
