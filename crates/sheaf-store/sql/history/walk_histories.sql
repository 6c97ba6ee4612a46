-- Purpose: the rows of several entities after one of them, by time, then entity, oldest first, at most rows_max; only rows
--   that can matter to the keys, as in walk_forwards.sql.
-- Parameters: tenant_id, entity_ids, time, entity and seq of the row before, to (exclusive), keys, rows_max.
-- Index: entity_events_pkey; the bounds on the time alone prune partitions. Locks: none.
SELECT e.entity_id, e.observed_at, e.seq, e.op, e.batch_id, e.ingested_at, e.attrs
FROM sheaf.entity_events e
WHERE e.tenant_id = $1 AND e.entity_id = ANY ($2::bigint[])
    AND e.observed_at >= $3 AND e.observed_at < $6 AND (e.observed_at, e.entity_id, e.seq) > ($3, $4, $5)
    AND (e.seq > 0 OR e.op IN ('r', 'd') OR e.attrs ?| $7::text[])
ORDER BY e.observed_at, e.entity_id, e.seq
LIMIT $8
