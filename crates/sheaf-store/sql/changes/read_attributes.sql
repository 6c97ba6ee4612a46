-- Purpose: the attributes after one, as they are now.
-- Parameters: its tenant, its number, how many. Index: attributes_pkey. Locks: none.
SELECT tenant_id, attribute_id, name, type, origin, unit, description, schema, pii, pin, temperature, created_at, series_tag,
    value_index, retention_micros
FROM sheaf.attributes WHERE (tenant_id, attribute_id) > ($1::bigint, $2::bigint)
ORDER BY tenant_id, attribute_id LIMIT $3::bigint
