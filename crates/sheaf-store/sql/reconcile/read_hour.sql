-- Purpose: the events of a tenant of one span of time, late ones among them, that were received before a cutoff, as they are now.
-- Parameters: the tenant; the first instant, the first after it; the cutoff. Index: the partition's primary key, or
--   entity_events_observed_at; entity_events_late_pkey. Locks: none.
SELECT e.tenant_id, e.entity_id, e.observed_at, e.seq, e.op, e.batch_id, e.ingested_at, e.attrs::text AS attrs,
    e.seq > 0 AS has_others
FROM (
    SELECT i.tenant_id, i.entity_id, i.observed_at, i.seq, i.op, i.batch_id, i.ingested_at, i.attrs FROM sheaf.entity_events i
    WHERE i.tenant_id = $1::bigint AND i.observed_at >= $2::timestamptz AND i.observed_at < $3::timestamptz
    UNION ALL
    SELECT l.tenant_id, l.entity_id, l.observed_at, l.seq, l.op, l.batch_id, l.ingested_at, l.attrs FROM sheaf.entity_events_late l
    WHERE l.tenant_id = $1::bigint AND l.observed_at >= $2::timestamptz AND l.observed_at < $3::timestamptz
) e
WHERE e.ingested_at < $4::timestamptz
ORDER BY e.tenant_id, e.entity_id, e.observed_at, e.seq
