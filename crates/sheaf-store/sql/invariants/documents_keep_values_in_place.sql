-- Purpose: values that lie in another part of the document than their attribute's temperature says, where a filter would
--   not look for them. While an attribute moves they may be in either.
-- Parameters: none. Index: none; reads every document. Locks: none.
SELECT format('tenant %s: document of entity %s has attribute %s, which is %s, in the %s part', d.tenant_id, d.entity_id,
    a.attribute_id, a.temperature, p.part)
FROM sheaf.entity_jsonb d
CROSS JOIN LATERAL (
    SELECT 'hot' AS part, jsonb_object_keys(d.hot_attrs) AS key
    UNION ALL
    SELECT 'cold', jsonb_object_keys(d.cold_attrs)
) p
JOIN sheaf.attributes a ON a.tenant_id = d.tenant_id AND a.attribute_id::text = p.key
WHERE a.temperature IN ('hot', 'cold') AND a.temperature <> p.part
LIMIT 100
