-- Purpose: the newest keyframes of a span of a tenant's entities, in the form of documents. Runs as sheaf_upkeep.
-- Parameters: tenant_id, the entity_id after which the span begins, its last entity_id. Index: entity_keyframes_pkey. Locks: none.
SELECT DISTINCT ON (k.entity_id) k.entity_id, 0::bigint AS version, k.newest, k.floor_at, k.deleted, k.newest AS updated_at,
    (SELECT coalesce(jsonb_object_agg(c.key, c.value), '{}') FROM jsonb_each(k.attrs) c WHERE c.value <> 'null') AS hot_attrs,
    '{}'::jsonb AS cold_attrs, k.times
FROM sheaf.entity_keyframes k
WHERE k.tenant_id = $1 AND k.entity_id > $2 AND k.entity_id <= $3
ORDER BY k.entity_id, k.at DESC
