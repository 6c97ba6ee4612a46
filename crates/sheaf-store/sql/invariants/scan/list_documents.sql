-- Purpose: a page of a tenant's documents in order of entity. Runs as sheaf_upkeep.
-- Parameters: tenant_id, the entity_id after which the page begins, documents_max. Index: entity_jsonb_pkey. Locks: none.
SELECT entity_id, version, newest, floor_at, deleted, updated_at, hot_attrs, cold_attrs, times
FROM sheaf.entity_jsonb
WHERE tenant_id = $1 AND entity_id > $2
ORDER BY entity_id
LIMIT $3
