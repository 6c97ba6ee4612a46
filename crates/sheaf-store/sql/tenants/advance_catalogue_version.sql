-- Purpose: tell every server that the catalogue has changed. In the transaction of the change.
-- Parameters: tenant_id. Index: tenants_pkey. Locks: the tenant's row, until the commit.
UPDATE sheaf.tenants SET catalogue_version = catalogue_version + 1 WHERE tenant_id = $1 RETURNING catalogue_version
