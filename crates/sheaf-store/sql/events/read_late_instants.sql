-- Purpose: the late rows already there for some instants of some entities, to compare further ones with.
-- Parameters: tenant_ids, entity_ids, times.
-- Index: entity_events_late_pkey, one probe an instant, as in read_instants.sql. Locks: none.
SELECT n.entity_id, e.observed_at, e.seq, e.op, e.attrs
FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[]) AS n (tenant_id, entity_id, observed_at)
CROSS JOIN LATERAL (
    SELECT i.observed_at, i.seq, i.op, i.attrs
    FROM sheaf.entity_events_late i
    WHERE i.tenant_id = n.tenant_id AND i.entity_id = n.entity_id AND i.observed_at = n.observed_at
    ORDER BY i.seq
    OFFSET 0
) e
