-- Purpose: an entity's rows in descending order of time, at most rows_max; the rows of the last instant may be cut.
-- Parameters: tenant_id, entity_id, from (inclusive), to (exclusive), rows_max.
-- Index: entity_events_pkey, backwards; bounds prune partitions. Locks: none.
SELECT e.observed_at, e.seq, e.op, e.batch_id, e.ingested_at, e.attrs
FROM sheaf.entity_events e
WHERE e.tenant_id = $1 AND e.entity_id = $2 AND e.observed_at >= $3 AND e.observed_at < $4
ORDER BY e.observed_at DESC, e.seq DESC
LIMIT $5
