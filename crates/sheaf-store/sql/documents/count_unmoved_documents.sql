-- Purpose: whether a move is over: documents that still hold the attribute in the part that it leaves, at most one.
--   Runs as sheaf_upkeep.
-- Parameters: tenant_id, attribute_id, whether it leaves the cold part. Index: entity_jsonb_present. Locks: none.
SELECT count(*) AS unmoved FROM (
    SELECT FROM sheaf.entity_jsonb
    WHERE tenant_id = $1 AND present @> ARRAY[$2::bigint]
        AND CASE WHEN $3 THEN cold_attrs ELSE hot_attrs END ? ($2::bigint)::text
    LIMIT 1
) unmoved
