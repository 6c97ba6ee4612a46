-- Purpose: values that lie in another part of the document than their attribute's temperature says, where a filter would
--   not look for them. While an attribute moves they may be in either.
-- Parameters: none. Index: none; reads every document. Locks: none. Joined as in documents_hold_typed_values.sql.
SELECT format('tenant %s: document of entity %s has attribute %s, which is %s, in the %s part', p.tenant_id, p.entity_id,
    a.attribute_id, a.temperature, p.part)
FROM (
    SELECT d.tenant_id, d.entity_id, j.part, j.key
    FROM sheaf.entity_jsonb d
    CROSS JOIN LATERAL (
        SELECT 'hot' AS part, jsonb_object_keys(d.hot_attrs) AS key
        UNION ALL
        SELECT 'cold', jsonb_object_keys(d.cold_attrs)
    ) j
    OFFSET 0
) p
LEFT JOIN sheaf.attributes a ON a.attribute_id + 0 = CASE WHEN p.key ~ '^[1-9][0-9]{0,17}$' THEN p.key::bigint END
-- One that the tenant lacks is another invariant's. An outer join, so that it begins with the documents.
WHERE NOT coalesce(a.tenant_id <> p.tenant_id OR a.temperature IN ('warming', 'cooling', p.part), true)
LIMIT 100
