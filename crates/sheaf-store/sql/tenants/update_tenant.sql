-- Purpose: a tenant's policies; null where there is no such tenant.
-- Parameters: tenant_id, unknown_attributes, observed_at_min, observed_at_ahead_max_micros, retention_micros,
--   line_protocol. Index: tenants_pkey. Locks: one row.
SELECT sheaf.update_tenant($1, $2, $3, $4, $5, $6) AS tenant_id
