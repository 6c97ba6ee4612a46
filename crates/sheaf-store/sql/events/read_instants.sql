-- Purpose: the rows already there for some instants of some entities, to compare late and repeated events with.
-- Parameters: tenant_id, entity_ids, times, the earliest and the latest of the times (for pruning).
-- Index: entity_events_pkey, one probe an instant. Locks: none.
SELECT e.entity_id, e.observed_at, e.seq, e.op, e.attrs
FROM unnest($2::bigint[], $3::timestamptz[]) AS n (entity_id, observed_at)
JOIN sheaf.entity_events e ON e.tenant_id = $1 AND e.entity_id = n.entity_id AND e.observed_at = n.observed_at
WHERE e.observed_at BETWEEN $4 AND $5
ORDER BY e.entity_id, e.observed_at, e.seq
