-- Purpose: one step of a move: up to documents_max values of one attribute from the cold part to the hot part.
--   The document stays what it was, so that its version does not move. Nothing where the attribute is not on that way any
--   more. Runs as sheaf_upkeep.
-- Parameters: tenant_id, attribute_id, documents_max, the temperature and the row_version seen.
-- Index: entity_jsonb_present, attributes_pkey. Locks: the rows moved; none that a writer holds (SKIP LOCKED).
WITH found AS (
    SELECT tenant_id, entity_id
    FROM sheaf.entity_jsonb
    WHERE tenant_id = $1 AND present @> ARRAY[$2::bigint] AND cold_attrs ? ($2::bigint)::text
        AND EXISTS (
            SELECT FROM sheaf.attributes
            WHERE tenant_id = $1 AND attribute_id = $2 AND temperature = $4 AND xmin::text::bigint = $5
        )
    LIMIT $3
    FOR UPDATE SKIP LOCKED
)
UPDATE sheaf.entity_jsonb d
SET hot_attrs = d.hot_attrs || jsonb_build_object(($2::bigint)::text, d.cold_attrs -> ($2::bigint)::text),
    cold_attrs = d.cold_attrs - ($2::bigint)::text
FROM found f
WHERE d.tenant_id = f.tenant_id AND d.entity_id = f.entity_id
