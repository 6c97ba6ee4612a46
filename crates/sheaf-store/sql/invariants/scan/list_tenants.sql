-- Purpose: every tenant, one after the other. Runs as sheaf_upkeep.
-- Parameters: the tenant_id after which to go on. Index: tenants_pkey. Locks: none.
SELECT tenant_id FROM sheaf.tenants WHERE tenant_id > $1 ORDER BY tenant_id LIMIT 1
