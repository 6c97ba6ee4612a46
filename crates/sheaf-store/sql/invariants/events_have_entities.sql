-- Purpose: events of entities that have no name. No foreign key says so: COPY would look each one up.
-- Parameters: none. Index: entities_pkey; reads every event. Locks: none.
SELECT format('tenant %s: event of entity %s at %s, which has no name', e.tenant_id, e.entity_id, e.observed_at)
FROM (
    SELECT tenant_id, entity_id, observed_at FROM sheaf.entity_events
    UNION ALL SELECT tenant_id, entity_id, observed_at FROM sheaf.entity_events_late
) e
WHERE NOT EXISTS (SELECT FROM sheaf.entities n WHERE n.tenant_id = e.tenant_id AND n.entity_id = e.entity_id)
LIMIT 100
