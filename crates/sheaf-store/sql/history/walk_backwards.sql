-- Purpose: an entity's rows before one of them, newest first, at most rows_max; keys and bytes as in walk_forwards.sql.
-- Parameters: tenant_id, type, id, time and seq of the row after, from (inclusive), keys or null, rows_max, bytes_max.
-- Index: entities_external_id_key; entity_events_pkey, backwards; the bounds on the time alone prune partitions.
-- Locks: none.
SELECT w.observed_at, w.seq, w.op, w.batch_id, w.ingested_at, w.is_whole, CASE WHEN w.is_whole THEN w.attrs END AS attrs
FROM (
    SELECT r.*, coalesce(sum(r.bytes) OVER (
        ORDER BY r.observed_at DESC, r.seq DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) < $9 AS is_whole
    FROM (
        SELECT e.observed_at, e.seq, e.op, e.batch_id, e.ingested_at, e.attrs,
            CASE WHEN pg_column_compression(e.attrs) IS NULL THEN pg_column_size(e.attrs)
                ELSE pg_column_size(e.attrs || '{}') END AS bytes
        FROM sheaf.entity_events e
        WHERE e.tenant_id = $1
            AND e.entity_id = (SELECT n.entity_id FROM sheaf.entities n
                WHERE n.tenant_id = $1 AND n.entity_type = $2 AND n.external_id = $3)
            AND e.observed_at >= $6 AND e.observed_at <= $4 AND (e.observed_at, e.seq) < ($4, $5)
            AND ($7::text[] IS NULL OR e.seq > 0 OR e.op IN ('r', 'd') OR e.attrs ?| $7::text[])
        ORDER BY e.observed_at DESC, e.seq DESC
        LIMIT $8
    ) r
) w
ORDER BY w.observed_at DESC, w.seq DESC
