-- Purpose: what a user says anew of an attribute; its type never changes.
-- Parameters: tenant_id, attribute_id, unit, description, schema, pii, pin, temperature.
-- Index: attributes_pkey. Locks: one row.
UPDATE sheaf.attributes
SET unit = $3, description = $4, schema = $5, pii = $6, pin = $7, temperature = $8
WHERE tenant_id = $1 AND attribute_id = $2
RETURNING attribute_id
