-- Purpose: values in documents whose attribute the tenant does not have, or that are not what its type says. A removal
--   leaves no value, so that null is none either.
-- Parameters: none. Index: none; reads every document. Locks: none.
SELECT format('tenant %s: document of entity %s has %s for attribute %s (%s)', v.tenant_id, v.entity_id,
    jsonb_typeof(v.value), v.key, coalesce(a.type, 'not of this tenant'))
FROM (
    SELECT d.tenant_id, d.entity_id, j.key, j.value
    FROM sheaf.entity_jsonb d
    CROSS JOIN LATERAL (SELECT key, value FROM jsonb_each(d.hot_attrs) UNION ALL SELECT key, value FROM jsonb_each(d.cold_attrs)) j
) v
LEFT JOIN sheaf.attributes a ON a.tenant_id = v.tenant_id AND a.attribute_id::text = v.key
WHERE NOT CASE
    WHEN a.type IS NULL THEN false
    WHEN a.type = 'int' THEN v.value::text ~ '^-?[0-9]{1,19}$'
        AND v.value::text::numeric BETWEEN -9223372036854775808 AND 9223372036854775807
    WHEN a.type IN ('float', 'decimal') THEN jsonb_typeof(v.value) = 'number'
    WHEN a.type = 'text' THEN jsonb_typeof(v.value) = 'string'
    WHEN a.type = 'bool' THEN jsonb_typeof(v.value) = 'boolean'
    WHEN a.type = 'time' THEN v.value::text ~ '^"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"$'
    ELSE a.type = 'json' AND v.value <> 'null'
END
LIMIT 100
