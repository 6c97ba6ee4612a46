-- Purpose: what is true of a request that was staged, in one snapshot: staged, durable, lost; or unknown, where nothing is
--   known of an id of a time whose registrations a recovery may have taken back. No row for any other id that nothing is
--   known of: it was never staged, or it is forgotten. So is an unknown one, if it is older than the horizon.
-- Parameters: tenant_id, batch_id. Index: ingest_requests_batch_id_key, staged_batches_pkey. Locks: none.
WITH flushed AS (
    SELECT q.request_key, q.events, q.refused, q.received_at, q.durable_at, q.staged_values, q.ack,
        -- Seen by a snapshot that is known to be on disk. Or a loss has been since its flush, found or not: what is there
        -- all the same comes from the disk, or from a dump. None of them is ever taken back.
        coalesce(pg_visible_in_snapshot(q.flush_xid, (SELECT e.confirmed_snapshot FROM sheaf.staging_epochs e
                WHERE e.confirmed_snapshot IS NOT NULL ORDER BY e.epoch DESC LIMIT 1)), false)
            OR q.flush_epoch IS DISTINCT FROM (SELECT sheaf.staging_epoch()) AS is_durable
    FROM sheaf.ingest_requests q WHERE q.tenant_id = $1 AND q.batch_id = $2
), waiting AS (
    SELECT b.events, b.refused, b.received_at, b.value_count,
        b.status = 'staged' AND b.epoch IS NOT DISTINCT FROM (SELECT sheaf.staging_epoch()) AS is_there
    FROM sheaf.staged_batches b WHERE b.tenant_id = $1 AND b.batch_id = $2
)
SELECT CASE WHEN f.is_durable THEN 'durable' ELSE 'staged' END AS state, f.events, f.refused, f.received_at,
    CASE WHEN f.is_durable THEN f.durable_at END AS durable_at, p.value_count, p.accepted, p.duplicates, p.merged, p.corrected,
    p.refused AS refused_late
FROM flushed f
CROSS JOIN LATERAL (
    SELECT coalesce(sum(value_count), 0)::bigint AS value_count, coalesce(sum(accepted), 0)::bigint AS accepted,
        coalesce(sum(duplicates), 0)::bigint AS duplicates, coalesce(sum(merged), 0)::bigint AS merged,
        coalesce(sum(corrected), 0)::bigint AS corrected, coalesce(sum(refused), 0)::bigint AS refused
    FROM sheaf.ingest_parts p WHERE p.tenant_id = $1 AND p.request_key = f.request_key
) p
WHERE f.ack = 'staged'
UNION ALL
SELECT CASE WHEN w.is_there THEN 'staged' ELSE 'lost' END, w.events, w.refused, w.received_at, NULL, w.value_count, 0, 0, 0, 0, 0
FROM waiting w
UNION ALL
SELECT 'unknown', 0, 0, i.made_at, NULL, 0, 0, 0, 0, 0, 0
FROM (
    -- The id's first 48 bits are the milliseconds at which the request arrived.
    SELECT to_timestamp(('x' || left(replace($2::uuid::text, '-', ''), 12))::bit(48)::bigint / 1000.0) AS made_at
    WHERE substr($2::uuid::text, 15, 1) = '7'
) i
WHERE NOT EXISTS (SELECT FROM flushed) AND NOT EXISTS (SELECT FROM waiting)
    AND EXISTS (
        SELECT FROM sheaf.staging_epochs e LEFT JOIN sheaf.staging_epochs n ON n.epoch = e.epoch + 1
        -- A request waits, is decoded and typed before it is staged, and clocks differ. An epoch whose end nobody has
        -- noticed has ended, too.
        WHERE i.made_at BETWEEN e.confirmed_at - interval '1 minute'
            AND coalesce(n.began_at, (SELECT clock_timestamp() WHERE sheaf.staging_epoch() IS NULL))
                + interval '1 minute'
    )
