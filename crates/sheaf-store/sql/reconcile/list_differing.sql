-- Purpose: the hours whose sides differ by what was counted, after one.
-- Parameters: that one's tenant and hour; how many. Index: reconciled_hours_differing. Locks: none.
SELECT tenant_id, hour FROM sheaf.reconciled_hours
WHERE differs AND (tenant_id, hour) > ($1::bigint, $2::bigint) ORDER BY tenant_id, hour LIMIT $3::bigint
