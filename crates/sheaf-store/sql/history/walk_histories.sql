-- Purpose: the rows of several entities after one of them, by time, then entity, oldest first, at most rows_max; only rows
--   that can matter to the keys; these and the bytes are as in walk_forwards.sql.
--   firsts: when the next row of each entity is.
--   nearest: the rows_max entities whose next rows come first. Of the others none is wanted: as many come before theirs.
--   reach: how far the rows that are wanted reach: as many entities as rows have one by then.
-- Parameters: tenant_id, entity_ids, time, entity and seq of the row before, to (exclusive), keys, rows_max, bytes_max.
-- Index: entity_events_pkey, one probe an entity, and then the first rows of the nearest; the bounds on the time alone prune
--   partitions. Locks: none.
WITH firsts AS (
    SELECT n.entity_id, f.observed_at
    FROM unnest($2::bigint[]) AS n (entity_id)
    CROSS JOIN LATERAL (
        SELECT e.observed_at
        FROM sheaf.entity_events e
        WHERE e.tenant_id = $1 AND e.entity_id = n.entity_id
            AND e.observed_at >= $3 AND e.observed_at < $6 AND (e.observed_at, e.entity_id, e.seq) > ($3, $4, $5)
            AND (e.seq > 0 OR e.op IN ('r', 'd') OR e.attrs ?| $7::text[])
        ORDER BY e.observed_at, e.seq
        LIMIT 1
    ) f
), nearest AS (
    SELECT entity_id, observed_at FROM firsts ORDER BY observed_at, entity_id LIMIT $8
), reach AS (
    SELECT CASE WHEN count(*) < $8 THEN $6 ELSE max(observed_at) END AS through FROM nearest
)
SELECT w.entity_id, w.observed_at, w.seq, w.op, w.batch_id, w.ingested_at, w.is_whole,
    CASE WHEN w.is_whole THEN w.attrs END AS attrs
FROM (
    SELECT s.*, coalesce(sum(s.bytes) OVER (
        ORDER BY s.observed_at, s.entity_id, s.seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) < $9 AS is_whole
    FROM (
        SELECT r.*, CASE WHEN pg_column_compression(r.attrs) IS NULL THEN pg_column_size(r.attrs)
            ELSE pg_column_size(r.attrs || '{}') END AS bytes
        FROM nearest n
        CROSS JOIN LATERAL (
            SELECT e.entity_id, e.observed_at, e.seq, e.op, e.batch_id, e.ingested_at, e.attrs
            FROM sheaf.entity_events e
            WHERE e.tenant_id = $1 AND e.entity_id = n.entity_id
                AND e.observed_at >= $3 AND e.observed_at < $6 AND (e.observed_at, e.entity_id, e.seq) > ($3, $4, $5)
                AND e.observed_at <= (SELECT through FROM reach)
                AND (e.seq > 0 OR e.op IN ('r', 'd') OR e.attrs ?| $7::text[])
            ORDER BY e.observed_at, e.seq
            LIMIT $8
        ) r
        ORDER BY r.observed_at, r.entity_id, r.seq
        LIMIT $8
    ) s
) w
ORDER BY w.observed_at, w.entity_id, w.seq
