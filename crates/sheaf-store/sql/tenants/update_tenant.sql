-- Purpose: a tenant's policies, as they follow from those at one version of its catalogue; null where that has moved on,
--   or where there is no such tenant.
-- Parameters: tenant_id, unknown_attributes, observed_at_min, observed_at_ahead_max_micros, retention_micros,
--   line_protocol, the catalogue_version seen. Index: tenants_pkey. Locks: one row.
SELECT sheaf.update_tenant($1, $2, $3, $4, $5, $6, $7) AS tenant_id
