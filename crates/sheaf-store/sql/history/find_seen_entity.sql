-- Purpose: the number of an entity that has had an event, deleted or not; no row otherwise.
-- Parameters: tenant_id, type, id. Index: entities_external_id_key, entity_jsonb_pkey. Locks: none.
SELECT n.entity_id
FROM sheaf.entities n
JOIN sheaf.entity_jsonb d ON d.tenant_id = n.tenant_id AND d.entity_id = n.entity_id
WHERE n.tenant_id = $1 AND n.entity_type = $2 AND n.external_id = $3
