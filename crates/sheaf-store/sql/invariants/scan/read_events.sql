-- Purpose: every row of a span of a tenant's entities, in the order in which they fold. Runs as sheaf_upkeep.
-- Parameters: tenant_id, the entity_id after which the span begins, its last entity_id.
-- Index: entity_events_pkey, merged over all partitions. Locks: none.
SELECT entity_id, observed_at, seq, op, batch_id, ingested_at, attrs
FROM sheaf.entity_events
WHERE tenant_id = $1 AND entity_id > $2 AND entity_id <= $3
ORDER BY entity_id, observed_at, seq
