-- Purpose: the events of one span of time after one that were received before an instant and that a snapshot sees, late ones among
--   them, whenever they are read: as for the snapshot of a sink. No more than fit in so many bytes as they are stored, but one at
--   least.
-- Parameters: the row's tenant, entity, observed_at, seq; the first instant of the span, the first after it; how many; the
--   snapshot, when it was taken; the cutoff; how many bytes. Index: the partition's primary key, entity_events_late_pkey. Locks: none.
SELECT p.tenant_id, p.entity_id, p.observed_at, p.seq, p.op, p.batch_id, p.ingested_at, p.attrs::text AS attrs
FROM (
    SELECT r.*, sum(r.bytes) OVER (ORDER BY r.tenant_id, r.entity_id, r.observed_at, r.seq) - r.bytes AS bytes_before
    FROM (
        (
            SELECT e.tenant_id, e.entity_id, e.observed_at, e.seq, e.op, e.batch_id, e.ingested_at, e.attrs,
                pg_column_size(e.attrs) AS bytes
            FROM sheaf.entity_events e CROSS JOIN (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next_number OFFSET 0) n
            WHERE (e.tenant_id, e.entity_id, e.observed_at, e.seq) > ($1::bigint, $2::bigint, $3::timestamptz, $4::smallint)
                AND e.observed_at >= $5::timestamptz AND e.observed_at < $6::timestamptz AND e.ingested_at < $10::timestamptz
                AND (sheaf.is_in_snapshot(e.xmin, n.next_number, $8::text::pg_snapshot)
                    OR n.next_number >= 4294967296 AND e.ingested_at < $9::timestamptz - interval '1 day')
            ORDER BY e.tenant_id, e.entity_id, e.observed_at, e.seq LIMIT $7::bigint
        ) UNION ALL (
            SELECT e.tenant_id, e.entity_id, e.observed_at, e.seq, e.op, e.batch_id, e.ingested_at, e.attrs,
                pg_column_size(e.attrs) AS bytes
            FROM sheaf.entity_events_late e CROSS JOIN (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next_number OFFSET 0) n
            WHERE (e.tenant_id, e.entity_id, e.observed_at, e.seq) > ($1::bigint, $2::bigint, $3::timestamptz, $4::smallint)
                AND e.observed_at >= $5::timestamptz AND e.observed_at < $6::timestamptz AND e.ingested_at < $10::timestamptz
                AND (sheaf.is_in_snapshot(e.xmin, n.next_number, $8::text::pg_snapshot)
                    OR n.next_number >= 4294967296 AND e.ingested_at < $9::timestamptz - interval '1 day')
            ORDER BY e.tenant_id, e.entity_id, e.observed_at, e.seq LIMIT $7::bigint
        )
        ORDER BY tenant_id, entity_id, observed_at, seq LIMIT $7::bigint
    ) r
) p
WHERE p.bytes_before < $11::bigint
ORDER BY p.tenant_id, p.entity_id, p.observed_at, p.seq
