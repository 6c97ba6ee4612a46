-- Purpose: values in documents whose attribute the tenant does not have, or that are not what its type says. A removal
--   leaves no value, so that null is none either.
-- Parameters: none. Index: none; reads every document and attribute. Locks: none. The number alone, which is one tenant's
--   in the whole database, and in an expression, so that there is nothing to choose but a hash join: with the tenant or
--   an index, missing or old statistics have each value compared with every attribute, which took minutes with 10,000.
--   OFFSET 0 keeps it one join of all values, and not one for each document.
SELECT format('tenant %s: document of entity %s has %s for attribute %s (%s)', v.tenant_id, v.entity_id,
    jsonb_typeof(v.value), v.key, CASE WHEN a.tenant_id = v.tenant_id THEN a.type ELSE 'not of this tenant' END)
FROM (
    SELECT d.tenant_id, d.entity_id, j.key, j.value
    FROM sheaf.entity_jsonb d
    CROSS JOIN LATERAL (SELECT key, value FROM jsonb_each(d.hot_attrs) UNION ALL SELECT key, value FROM jsonb_each(d.cold_attrs)) j
    OFFSET 0
) v
LEFT JOIN sheaf.attributes a ON a.attribute_id + 0 = CASE WHEN v.key ~ '^[1-9][0-9]{0,17}$' THEN v.key::bigint END
WHERE NOT CASE
    WHEN a.tenant_id IS DISTINCT FROM v.tenant_id THEN false
    WHEN a.type = 'int' THEN v.value::text ~ '^-?[0-9]{1,19}$'
        AND v.value::text::numeric BETWEEN -9223372036854775808 AND 9223372036854775807
    WHEN a.type IN ('float', 'decimal') THEN jsonb_typeof(v.value) = 'number'
    WHEN a.type = 'text' THEN jsonb_typeof(v.value) = 'string'
    WHEN a.type = 'bool' THEN jsonb_typeof(v.value) = 'boolean'
    WHEN a.type = 'time' THEN v.value::text ~ '^"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"$'
    ELSE a.type = 'json' AND v.value <> 'null'
END
LIMIT 100
