-- Purpose: whether a remembered catalogue is still the one in force.
-- Parameters: tenant_id. Index: tenants_pkey. Locks: none.
SELECT catalogue_version FROM sheaf.tenants WHERE tenant_id = $1
