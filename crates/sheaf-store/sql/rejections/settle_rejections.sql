-- Purpose: mark what a replay has stored, and say of what stays open where the rest of its event is now. What another
--   replay has marked meanwhile stays as it is. Gives back no row, and marks nothing, on another lineage than the one where
--   the events are.
-- Parameters: tenant_id, then as arrays: rejection_id, whether it is done, the entity's external_id, observed_at; the
--   lineage's system_identifier and timeline. Index: rejections_pkey. Locks: these rows, in order of rejection_id.
WITH lineage AS MATERIALIZED (
    SELECT 1 AS is_same
    WHERE $6::bigint = (SELECT system_identifier FROM pg_control_system())
        AND $7::text = substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)
), held AS MATERIALIZED (
    SELECT r.rejection_id
    FROM sheaf.rejections r
    WHERE r.tenant_id = $1 AND r.rejection_id = ANY ($2) AND r.status = 'open' AND EXISTS (SELECT FROM lineage)
    ORDER BY r.rejection_id
    FOR UPDATE
), marked AS (
    UPDATE sheaf.rejections r
    SET status = CASE WHEN s.is_done THEN 'replayed' ELSE r.status END,
        external_id = s.external_id, observed_at = s.observed_at
    FROM unnest($2::uuid[], $3::boolean[], $4::text[], $5::timestamptz[]) AS s (rejection_id, is_done, external_id, observed_at)
    JOIN held h ON h.rejection_id = s.rejection_id
    WHERE r.tenant_id = $1 AND r.rejection_id = s.rejection_id
)
SELECT is_same FROM lineage
