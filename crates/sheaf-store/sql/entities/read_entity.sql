-- Purpose: one entity with its document, all of whose columns are null where it has had no event; no row where the name
--   was never seen.
-- Parameters: tenant_id, type, id. Index: entities_external_id_key, entity_jsonb_pkey. Locks: none.
SELECT e.entity_id, d.version, d.newest, d.floor_at, d.deleted, d.updated_at, d.hot_attrs, d.cold_attrs, d.times
FROM sheaf.entities e
LEFT JOIN sheaf.entity_jsonb d ON d.tenant_id = e.tenant_id AND d.entity_id = e.entity_id
WHERE e.tenant_id = $1 AND e.entity_type = $2 AND e.external_id = $3
