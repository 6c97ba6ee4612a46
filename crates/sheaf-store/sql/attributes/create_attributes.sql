-- Purpose: attributes that are not there yet, in order of name so that two servers cannot wait for each other.
--   Those that are there stay as they are.
-- Parameters: tenant_id, names, types, temperatures, origin, created_at. Index: attributes_name_key. Locks: new rows.
INSERT INTO sheaf.attributes (tenant_id, name, type, origin, temperature, created_at)
SELECT $1, n.name, n.type, $5, n.temperature, $6
FROM unnest($2::text[], $3::text[], $4::text[]) AS n (name, type, temperature)
ORDER BY n.name COLLATE "C"
ON CONFLICT (tenant_id, name) DO NOTHING
RETURNING attribute_id
