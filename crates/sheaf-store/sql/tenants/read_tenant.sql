-- Purpose: the tenant of this transaction with its policies and the version of its catalogue.
-- Parameters: tenant_id. Index: tenants_pkey. Locks: none.
SELECT tenant_id, name, unknown_attributes, observed_at_min, observed_at_ahead_max_micros, retention_micros,
    line_protocol, catalogue_version, created_at
FROM sheaf.tenants
WHERE tenant_id = $1
