-- Purpose: the events of one span of time that are counted now and were not before, late ones among them: received since a while
--   before the cutoff of then, and before that of now; seen by the snapshot of now, and not counted then.
--   Each with whether its instant may have others.
-- Parameters: the first instant of the span, the first after it; of then: the snapshot, the cutoff; of now: the same; since when they
--   were received. Index: entity_events_ingested_at of the partition; of the late ones all are read. Locks: none.
SELECT e.tenant_id, e.entity_id, e.observed_at, e.seq, e.op, e.batch_id, e.ingested_at, e.attrs::text AS attrs,
    e.seq > 0 OR EXISTS (SELECT FROM sheaf.entity_events o
        WHERE o.tenant_id = e.tenant_id AND o.entity_id = e.entity_id AND o.observed_at = e.observed_at AND o.seq > 0) AS has_others
FROM (
    SELECT i.tenant_id, i.entity_id, i.observed_at, i.seq, i.op, i.batch_id, i.ingested_at, i.attrs, i.xmin AS row_xmin
    FROM sheaf.entity_events i
    WHERE i.observed_at >= $1::timestamptz AND i.observed_at < $2::timestamptz AND i.ingested_at >= $7::timestamptz
    UNION ALL
    SELECT l.tenant_id, l.entity_id, l.observed_at, l.seq, l.op, l.batch_id, l.ingested_at, l.attrs, l.xmin
    FROM sheaf.entity_events_late l
    WHERE l.observed_at >= $1::timestamptz AND l.observed_at < $2::timestamptz AND l.ingested_at >= $7::timestamptz
) e CROSS JOIN (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next_number OFFSET 0) n
WHERE e.ingested_at < $6::timestamptz AND sheaf.is_in_snapshot(e.row_xmin, n.next_number, $5::text::pg_snapshot)
    AND NOT (e.ingested_at < $4::timestamptz AND sheaf.is_in_snapshot(e.row_xmin, n.next_number, $3::text::pg_snapshot))
