-- Purpose: one step of filling a value index: the rows of up to documents_max documents after an entity, in order. Whoever
--   writes a document beside it waits for the step, or the step for him: the row is what the document then holds.
--   Gives back the last entity, null at the end, and how many documents. Nothing where the index is not on that way any
--   more. Runs as sheaf_upkeep.
-- Parameters: tenant_id, attribute_id, type, the entity before, documents_max, the value_index and the row_version seen.
-- Index: entity_jsonb_pkey, attributes_pkey. Locks: the documents, in order, until the commit.
WITH page AS MATERIALIZED (
    SELECT d.entity_id, coalesce(d.hot_attrs ->> ($2::bigint)::text, d.cold_attrs ->> ($2::bigint)::text) AS value
    FROM sheaf.entity_jsonb d
    WHERE d.tenant_id = $1 AND d.entity_id > $4 AND d.present @> ARRAY[$2::bigint]
        AND EXISTS (
            SELECT FROM sheaf.attributes
            WHERE tenant_id = $1 AND attribute_id = $2 AND value_index = $6 AND xmin::text::bigint = $7
        )
    ORDER BY d.entity_id
    LIMIT $5
    FOR UPDATE OF d
), taken AS (
    SELECT coalesce(array_agg(entity_id), '{}') AS entities, coalesce(array_agg(value), '{}') AS new_values,
        max(entity_id) AS through, count(*) AS documents
    FROM page
)
SELECT t.through, t.documents,
    sheaf.put_index($3::text, array_fill($1::bigint, ARRAY[t.documents::integer]),
        array_fill($2::bigint, ARRAY[t.documents::integer]), t.entities, t.new_values)::text AS put
FROM taken t
