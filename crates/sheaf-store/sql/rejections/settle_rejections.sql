-- Purpose: mark what a replay has stored, and say of what stays open where the rest of its event is now. What another
--   replay has marked meanwhile stays as it is.
-- Parameters: tenant_id, then as arrays: rejection_id, whether it is done, the entity's external_id, observed_at.
-- Index: rejections_pkey. Locks: these rows, in order of rejection_id.
WITH held AS MATERIALIZED (
    SELECT r.rejection_id
    FROM sheaf.rejections r
    WHERE r.tenant_id = $1 AND r.rejection_id = ANY ($2) AND r.status = 'open'
    ORDER BY r.rejection_id
    FOR UPDATE
)
UPDATE sheaf.rejections r
SET status = CASE WHEN s.is_done THEN 'replayed' ELSE r.status END,
    external_id = s.external_id, observed_at = s.observed_at
FROM unnest($2::uuid[], $3::boolean[], $4::text[], $5::timestamptz[]) AS s (rejection_id, is_done, external_id, observed_at)
JOIN held h ON h.rejection_id = s.rejection_id
WHERE r.tenant_id = $1 AND r.rejection_id = s.rejection_id
