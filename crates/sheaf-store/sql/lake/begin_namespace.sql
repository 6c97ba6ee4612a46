-- Purpose: the namespace of a lake's tables, where there is none: it exists when it has a property.
-- Parameters: catalogue, namespace, its location, the number that its files bear. Index: iceberg_namespace_properties_pkey. Locks: the row.
INSERT INTO sheaf.iceberg_namespace_properties (catalog_name, namespace, property_key, property_value)
SELECT $1::text, $2::text, p.key, p.value FROM (VALUES ('exists', 'true'), ('location', $3::text), ('sheaf.owner', $4::text)) AS p (key, value)
ON CONFLICT (catalog_name, namespace, property_key) DO NOTHING
