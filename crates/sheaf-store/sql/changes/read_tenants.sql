-- Purpose: the tenants after one, as they are now.
-- Parameters: the tenant, how many. Index: tenants_pkey. Locks: none.
SELECT tenant_id, name, unknown_attributes, observed_at_min, observed_at_ahead_max_micros, retention_micros, line_protocol,
    catalogue_version, created_at
FROM sheaf.tenants WHERE tenant_id > $1::bigint
ORDER BY tenant_id LIMIT $2::bigint
