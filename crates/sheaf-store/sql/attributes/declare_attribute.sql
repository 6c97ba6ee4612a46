-- Purpose: one attribute with everything that a user says of it; no row where the name is there already.
-- Parameters: tenant_id, name, type, unit, description, schema, pii, pin, temperature, created_at, value_index,
--   retention_micros.
-- Index: attributes_name_key. Locks: one new row.
INSERT INTO sheaf.attributes (tenant_id, name, type, origin, unit, description, schema, pii, pin, temperature, created_at,
    value_index, retention_micros)
VALUES ($1, $2, $3, 'declared', $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT (tenant_id, name) DO NOTHING
RETURNING attribute_id
