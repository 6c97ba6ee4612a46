-- Purpose: the tenant of this transaction with its policies and the version of its catalogue, and the lineage that it is read
--   from.
-- Parameters: tenant_id. Index: tenants_pkey. Locks: none.
SELECT tenant_id, name, unknown_attributes, observed_at_min, observed_at_ahead_max_micros, retention_micros,
    line_protocol, catalogue_version, created_at,
    (SELECT system_identifier FROM pg_control_system()) AS system_id,
    CASE WHEN NOT pg_is_in_recovery() THEN substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END AS timeline
FROM sheaf.tenants
WHERE tenant_id = $1
