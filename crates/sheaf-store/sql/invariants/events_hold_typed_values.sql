-- Purpose: values in events whose attribute the tenant does not have, or that are not what its type says. A null is a
--   removal, and no value.
-- Parameters: none. Index: none; reads every event. Locks: none. Joined as in documents_hold_typed_values.sql.
SELECT format('tenant %s: event of entity %s at %s has %s for attribute %s (%s)', v.tenant_id, v.entity_id, v.observed_at,
    jsonb_typeof(v.value), v.key, CASE WHEN a.tenant_id = v.tenant_id THEN a.type ELSE 'not of this tenant' END)
FROM (
    SELECT e.tenant_id, e.entity_id, e.observed_at, j.key, j.value
    FROM (
        SELECT tenant_id, entity_id, observed_at, attrs FROM sheaf.entity_events
        UNION ALL SELECT tenant_id, entity_id, observed_at, attrs FROM sheaf.entity_events_late
    ) e CROSS JOIN LATERAL jsonb_each(e.attrs) j
    OFFSET 0
) v
LEFT JOIN sheaf.attributes a ON a.attribute_id + 0 = CASE WHEN v.key ~ '^[1-9][0-9]{0,17}$' THEN v.key::bigint END
WHERE NOT CASE
    WHEN a.tenant_id IS DISTINCT FROM v.tenant_id THEN false
    WHEN v.value = 'null' THEN true
    WHEN a.type = 'int' THEN v.value::text ~ '^-?[0-9]{1,19}$'
        AND v.value::text::numeric BETWEEN -9223372036854775808 AND 9223372036854775807
    WHEN a.type IN ('float', 'decimal') THEN jsonb_typeof(v.value) = 'number'
    WHEN a.type = 'text' THEN jsonb_typeof(v.value) = 'string'
    WHEN a.type = 'bool' THEN jsonb_typeof(v.value) = 'boolean'
    WHEN a.type = 'time' THEN v.value::text ~ '^"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"$'
    ELSE a.type = 'json'
END
LIMIT 100
