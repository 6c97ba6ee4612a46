-- Purpose: what the snapshot of this transaction is: how far the write history has come, the time before which
--   everything is in it, and the version of the tenant's catalogue that its documents were placed by.
--   now() is the start of the transaction and so before its snapshot; the position is read after it, and so covers it.
-- Parameters: tenant_id. Index: tenants_pkey. Locks: none.
SELECT pg_current_wal_insert_lsn()::text AS lsn,
    substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) AS timeline,
    now() AS read_at,
    (SELECT t.catalogue_version FROM sheaf.tenants t WHERE t.tenant_id = $1) AS catalogue_version
