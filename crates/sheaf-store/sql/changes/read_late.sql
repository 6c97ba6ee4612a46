-- Purpose: the late events after one that a snapshot sees, whenever they are read: they are only ever added. No more than fit in so many
--   bytes as they are stored, but one at least.
-- Parameters: the row's tenant, entity, observed_at, seq; how many; the snapshot, when it was taken; how many bytes.
-- Index: entity_events_late_pkey. Locks: none.
SELECT p.tenant_id, p.entity_id, p.observed_at, p.seq, p.op, p.batch_id, p.ingested_at, p.attrs
FROM (
    SELECT r.*, sum(r.bytes) OVER (ORDER BY r.tenant_id, r.entity_id, r.observed_at, r.seq) - r.bytes AS bytes_before
    FROM (
        SELECT e.tenant_id, e.entity_id, e.observed_at, e.seq, e.op, e.batch_id, e.ingested_at, e.attrs,
            pg_column_size(e.attrs) AS bytes
        FROM sheaf.entity_events_late e
        CROSS JOIN (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next_number OFFSET 0) n
        WHERE (e.tenant_id, e.entity_id, e.observed_at, e.seq) > ($1::bigint, $2::bigint, $3::timestamptz, $4::smallint)
            AND (sheaf.is_in_snapshot(e.xmin, n.next_number, $6::text::pg_snapshot)
                OR n.next_number >= 4294967296 AND e.ingested_at < $7::timestamptz - interval '1 day')
        ORDER BY e.tenant_id, e.entity_id, e.observed_at, e.seq LIMIT $5::bigint
    ) r
) p
WHERE p.bytes_before < $8::bigint
ORDER BY p.tenant_id, p.entity_id, p.observed_at, p.seq
