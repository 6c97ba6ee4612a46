-- Purpose: the last instant of a range at which some entities have a late event; null where there is none.
-- Parameters: tenant_id, entity_ids, from (inclusive), to (exclusive). Index: entity_events_late_pkey, one probe an entity. Locks: none.
SELECT max(l.observed_at) AS last_at
FROM unnest($2::bigint[]) AS n (entity_id)
CROSS JOIN LATERAL (
    SELECT e.observed_at FROM sheaf.entity_events_late e
    WHERE e.tenant_id = $1 AND e.entity_id = n.entity_id AND e.observed_at >= $3 AND e.observed_at < $4
    ORDER BY e.observed_at DESC
    LIMIT 1
) l
