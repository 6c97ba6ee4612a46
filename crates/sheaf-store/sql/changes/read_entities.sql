-- Purpose: the names of entities after one that a snapshot sees, whenever they are read: names are only ever added. After a
--   whole cycle of numbers an old row can look like one after the snapshot; it was created days before it.
-- Parameters: its tenant, its number, how many, the snapshot, when it was taken. Index: entities_pkey. Locks: none.
SELECT e.tenant_id, e.entity_id, e.entity_type, e.external_id, e.created_at
FROM sheaf.entities e CROSS JOIN (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next_number OFFSET 0) n
WHERE (e.tenant_id, e.entity_id) > ($1::bigint, $2::bigint)
    AND (sheaf.is_in_snapshot(e.xmin, n.next_number, $4::text::pg_snapshot)
        OR n.next_number >= 4294967296 AND e.created_at < $5::timestamptz - interval '1 day')
ORDER BY e.tenant_id, e.entity_id LIMIT $3::bigint
