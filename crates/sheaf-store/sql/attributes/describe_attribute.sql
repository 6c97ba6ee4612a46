-- Purpose: what a user says anew of an attribute, as it follows from one version of the catalogue; its type never changes.
--   No row where the catalogue has moved on.
-- Parameters: tenant_id, attribute_id, unit, description, schema, pii, pin, temperature, the catalogue_version seen,
--   value_index, retention_micros.
-- Index: tenants_pkey, attributes_pkey. Locks: the tenant's row, then one row, until the commit.
WITH moved AS (
    UPDATE sheaf.tenants SET catalogue_version = catalogue_version + 1
    WHERE tenant_id = $1 AND catalogue_version = $9
    RETURNING tenant_id
)
UPDATE sheaf.attributes
SET unit = $3, description = $4, schema = $5, pii = $6, pin = $7, temperature = $8, value_index = $10,
    retention_micros = $11
WHERE tenant_id = $1 AND attribute_id = $2 AND EXISTS (SELECT FROM moved)
RETURNING attribute_id
