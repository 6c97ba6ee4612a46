-- Purpose: one creator of a tenant's attributes at a time, before it counts what is there and without saying yet that
--   the catalogue has changed.
-- Parameters: tenant_id. Index: tenants_pkey. Locks: the tenant's row, until the commit.
SELECT tenant_id FROM sheaf.tenants WHERE tenant_id = $1 FOR NO KEY UPDATE
