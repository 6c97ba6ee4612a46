-- Purpose: the late events of some entities before one of them, newest first; else as walk_late_forwards.sql.
-- Parameters: tenant_id, entity_ids, time, entity and seq of the row after, from (inclusive), rows_max, bytes_max.
-- Index: entity_events_late_pkey, backwards for each entity. Locks: none.
SELECT w.entity_id, w.observed_at, w.seq, w.op, w.batch_id, w.ingested_at, w.is_whole,
    CASE WHEN w.is_whole THEN w.attrs END AS attrs
FROM (
    SELECT s.*, coalesce(sum(s.bytes) OVER (ORDER BY s.observed_at DESC, s.entity_id DESC, s.seq DESC
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) < $8 AS is_whole
    FROM (
        SELECT r.*, CASE WHEN pg_column_compression(r.attrs) IS NULL THEN pg_column_size(r.attrs)
            ELSE pg_column_size(r.attrs || '{}') END AS bytes
        FROM unnest($2::bigint[]) AS n (entity_id)
        CROSS JOIN LATERAL (
            SELECT e.entity_id, e.observed_at, e.seq, e.op, e.batch_id, e.ingested_at, e.attrs
            FROM sheaf.entity_events_late e
            WHERE e.tenant_id = $1 AND e.entity_id = n.entity_id
                AND e.observed_at >= $6 AND e.observed_at <= $3 AND (e.observed_at, e.entity_id, e.seq) < ($3, $4, $5)
            ORDER BY e.observed_at DESC, e.seq DESC
            LIMIT $7
        ) r
        ORDER BY r.observed_at DESC, r.entity_id DESC, r.seq DESC
        LIMIT $7
    ) s
) w
ORDER BY w.observed_at DESC, w.entity_id DESC, w.seq DESC
