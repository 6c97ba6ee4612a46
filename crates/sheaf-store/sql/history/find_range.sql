-- Purpose: the first and the last instant of an entity's history within a range; nulls where there is none.
-- Parameters: tenant_id, type, id, from (inclusive), to (exclusive).
-- Index: entities_external_id_key; entity_events_pkey, one probe from either end. Locks: none.
SELECT min(e.observed_at) AS first_at, max(e.observed_at) AS last_at
FROM sheaf.entity_events e
WHERE e.tenant_id = $1
    AND e.entity_id = (SELECT n.entity_id FROM sheaf.entities n
        WHERE n.tenant_id = $1 AND n.entity_type = $2 AND n.external_id = $3)
    AND e.observed_at >= $4 AND e.observed_at < $5
