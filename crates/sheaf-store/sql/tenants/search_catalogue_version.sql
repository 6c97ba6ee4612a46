-- Purpose: whether the catalogue that a search was compiled with is the one in force, in the snapshot of the search.
-- Parameters: tenant_id. Index: tenants_pkey. Locks: none.
SELECT sheaf.catalogue_version($1) AS catalogue_version
