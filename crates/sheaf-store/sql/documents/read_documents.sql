-- Purpose: the documents that a group of writes is merged into. Under the buckets' locks nobody else writes them.
-- Parameters: tenant_id, entity_ids. Index: entity_jsonb_pkey. Locks: none.
SELECT d.entity_id, d.version, d.newest, d.floor_at, d.deleted, d.updated_at, d.hot_attrs, d.cold_attrs, d.times
FROM sheaf.entity_jsonb d
WHERE d.tenant_id = $1 AND d.entity_id = ANY ($2::bigint[])
