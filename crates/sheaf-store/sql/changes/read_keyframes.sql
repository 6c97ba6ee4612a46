-- Purpose: the keyframes after one that a snapshot sees, but for those of archived periods, which alone are ever removed and which the
--   lake keeps. The others are days old at most, and so their numbers are of this cycle. No more than fit in so many bytes as they are
--   stored, but one at least.
-- Parameters: the row's tenant, entity, at; how many; the snapshot; how many bytes.
-- Index: entity_keyframes_pkey. Locks: none.
SELECT p.tenant_id, p.entity_id, p.at, p.newest, p.floor_at, p.deleted, p.attrs, p.times
FROM (
    SELECT r.*, sum(r.bytes) OVER (ORDER BY r.tenant_id, r.entity_id, r.at) - r.bytes AS bytes_before
    FROM (
        SELECT k.tenant_id, k.entity_id, k.at, k.newest, k.floor_at, k.deleted, k.attrs, k.times,
            pg_column_size(k.attrs) + pg_column_size(k.times) AS bytes
        FROM sheaf.entity_keyframes k
        CROSS JOIN (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next_number OFFSET 0) n
        WHERE (k.tenant_id, k.entity_id, k.at) > ($1::bigint, $2::bigint, $3::timestamptz)
            AND k.at > (SELECT coalesce(b.archived_before, '-infinity') FROM sheaf.history_boundaries b)
            AND sheaf.is_in_snapshot(k.xmin, n.next_number, $5::text::pg_snapshot)
        ORDER BY k.tenant_id, k.entity_id, k.at LIMIT $4::bigint
    ) r
) p
WHERE p.bytes_before < $6::bigint
ORDER BY p.tenant_id, p.entity_id, p.at
