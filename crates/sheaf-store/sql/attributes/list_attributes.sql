-- Purpose: a tenant's whole catalogue, bounded by its quota.
-- Parameters: tenant_id. Index: attributes_name_key. Locks: none.
SELECT attribute_id, name, type, origin, unit, description, schema, pii, pin, temperature, created_at
FROM sheaf.attributes
WHERE tenant_id = $1
ORDER BY name
