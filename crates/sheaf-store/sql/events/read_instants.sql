-- Purpose: the rows already there for some instants of some entities, to compare late and repeated events with.
-- Parameters: tenant_ids, entity_ids, times.
-- Index: entity_events_pkey, one probe an instant, which also prunes partitions. OFFSET 0 keeps the probe a probe: as a
--   plain join, an estimate of one row for a new tenant or a new time turns it into a comparison of everything with
--   everything. Locks: none.
SELECT n.entity_id, e.observed_at, e.seq, e.op, e.attrs
FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[]) AS n (tenant_id, entity_id, observed_at)
CROSS JOIN LATERAL (
    SELECT i.observed_at, i.seq, i.op, i.attrs
    FROM sheaf.entity_events i
    WHERE i.tenant_id = n.tenant_id AND i.entity_id = n.entity_id AND i.observed_at = n.observed_at
    ORDER BY i.seq
    OFFSET 0
) e
