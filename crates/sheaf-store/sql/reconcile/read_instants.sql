-- Purpose: the events of some instants of entities, late ones among them, each with whether it was received before a cutoff and is of
--   what a snapshot sees, then and now. Without snapshots all are.
-- Parameters: tenants, entities, observed_ats; of then: the snapshot, when it was taken, the cutoff; of now: the same. Index: the
--   partitions' primary keys, entity_events_late_pkey. Locks: none.
SELECT e.tenant_id, e.entity_id, e.observed_at, e.seq, e.op, e.batch_id, e.ingested_at, e.attrs::text AS attrs,
    $4::text IS NULL OR e.ingested_at < $6::timestamptz AND (sheaf.is_in_snapshot(e.row_xmin, n.next_number, $4::text::pg_snapshot)
        OR n.next_number >= 4294967296 AND e.ingested_at < $5::timestamptz - interval '1 day') AS was_counted,
    $7::text IS NULL OR e.ingested_at < $9::timestamptz AND (sheaf.is_in_snapshot(e.row_xmin, n.next_number, $7::text::pg_snapshot)
        OR n.next_number >= 4294967296 AND e.ingested_at < $8::timestamptz - interval '1 day') AS is_counted
FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[]) u (tenant_id, entity_id, observed_at)
CROSS JOIN LATERAL (
    SELECT i.tenant_id, i.entity_id, i.observed_at, i.seq, i.op, i.batch_id, i.ingested_at, i.attrs, i.xmin AS row_xmin
    FROM sheaf.entity_events i
    WHERE i.tenant_id = u.tenant_id AND i.entity_id = u.entity_id AND i.observed_at = u.observed_at
    UNION ALL
    SELECT l.tenant_id, l.entity_id, l.observed_at, l.seq, l.op, l.batch_id, l.ingested_at, l.attrs, l.xmin
    FROM sheaf.entity_events_late l
    WHERE l.tenant_id = u.tenant_id AND l.entity_id = u.entity_id AND l.observed_at = u.observed_at
) e
CROSS JOIN (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next_number OFFSET 0) n
ORDER BY e.tenant_id, e.entity_id, e.observed_at, e.seq
