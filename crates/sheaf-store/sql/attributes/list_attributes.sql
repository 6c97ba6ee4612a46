-- Purpose: a tenant's whole catalogue, bounded by its quota, in no order: to sort 10,000 names takes longer than to find
--   them. The columns stand in the order in which create_attributes.sql gives them.
-- Parameters: tenant_id. Index: attributes_name_key. Locks: none.
SELECT attribute_id, name, type, origin, unit, description, schema, pii, pin, temperature, value_index,
    series_tag, created_at, retention_micros
FROM sheaf.attributes
WHERE tenant_id = $1
