-- Purpose: the number that a lake's files bear, so that nobody else's are taken for them.
-- Parameters: catalogue, namespace. Index: iceberg_namespace_properties_pkey. Locks: none.
SELECT property_value::text AS owner
FROM sheaf.iceberg_namespace_properties
WHERE catalog_name = $1::text AND namespace = $2::text AND property_key = 'sheaf.owner'
