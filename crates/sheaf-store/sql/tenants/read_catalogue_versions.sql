-- Purpose: whether remembered catalogues are still the ones of their tenants.
-- Parameters: tenant_ids. Index: tenants_pkey. Locks: none.
SELECT tenant_id, catalogue_version FROM sheaf.tenants WHERE tenant_id = ANY ($1::bigint[])
