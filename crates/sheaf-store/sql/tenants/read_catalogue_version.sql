-- Purpose: whether a remembered catalogue is still the one in force; versions compare within one lineage only.
-- Parameters: tenant_id. Index: tenants_pkey. Locks: none.
SELECT catalogue_version,
    (SELECT system_identifier FROM pg_control_system()) AS system_id,
    CASE WHEN NOT pg_is_in_recovery() THEN substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END AS timeline
FROM sheaf.tenants
WHERE tenant_id = $1
