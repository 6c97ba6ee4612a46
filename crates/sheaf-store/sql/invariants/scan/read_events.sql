-- Purpose: every row of a span of a tenant's entities after their keyframes, and the late ones, in the order in which they fold. Runs as
--   sheaf_upkeep.
-- Parameters: tenant_id, the entity_id after which the span begins, its last entity_id.
-- Index: entity_events_pkey, merged over all partitions, entity_events_late_pkey, entity_keyframes_pkey. Locks: none.
SELECT e.entity_id, e.observed_at, e.seq, e.op, e.batch_id, e.ingested_at, e.attrs
FROM (
    SELECT i.entity_id, i.observed_at, i.seq, i.op, i.batch_id, i.ingested_at, i.attrs FROM sheaf.entity_events i
    WHERE i.tenant_id = $1 AND i.entity_id > $2 AND i.entity_id <= $3 AND NOT EXISTS (
        SELECT FROM sheaf.entity_keyframes k WHERE k.tenant_id = $1 AND k.entity_id = i.entity_id AND k.at > i.observed_at)
    UNION ALL
    SELECT l.entity_id, l.observed_at, l.seq, l.op, l.batch_id, l.ingested_at, l.attrs FROM sheaf.entity_events_late l
    WHERE l.tenant_id = $1 AND l.entity_id > $2 AND l.entity_id <= $3
) e
ORDER BY e.entity_id, e.observed_at, e.seq
