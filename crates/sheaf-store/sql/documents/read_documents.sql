-- Purpose: the documents that a group of writes is merged into. Under the buckets' locks nobody else writes them.
-- Parameters: tenant_ids, entity_ids. Index: entity_jsonb_pkey, one probe a document; a writer's transaction has no other
--   join. Locks: none.
SELECT d.entity_id, d.version, d.newest, d.floor_at, d.deleted, d.updated_at, d.hot_attrs, d.cold_attrs, d.times
FROM unnest($1::bigint[], $2::bigint[]) AS n (tenant_id, entity_id)
JOIN sheaf.entity_jsonb d ON d.tenant_id = n.tenant_id AND d.entity_id = n.entity_id
