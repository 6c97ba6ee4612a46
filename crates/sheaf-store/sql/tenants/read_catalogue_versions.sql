-- Purpose: which lineage this transaction reads and writes, and whether remembered catalogues are still the ones of their
--   tenants: a row for each that is there, and one without a tenant where none is. No timeline on a standby. And before which
--   instant history is closed to writes, which is read under the buckets' locks as well.
-- Parameters: tenant_ids. Index: tenants_pkey. Locks: none.
SELECT l.system_id, l.timeline, l.closed_before, t.tenant_id, t.catalogue_version
FROM (SELECT (SELECT system_identifier FROM pg_control_system()) AS system_id,
    CASE WHEN NOT pg_is_in_recovery() THEN substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END AS timeline,
    (SELECT b.closed_before FROM sheaf.history_boundaries b) AS closed_before) l
LEFT JOIN sheaf.tenants t ON t.tenant_id = ANY ($1::bigint[])
