-- Purpose: a request of the ledger by its key, with the sum of its parts and the buckets that none has written yet.
-- Parameters: tenant_id, request_key. Index: ingest_requests_pkey, ingest_parts_pkey. Locks: none.
SELECT r.batch_id, r.request_hash, r.outcome, r.ack, r.events, r.refused, r.received_at,
    greatest(r.durable_at, p.written_at) AS durable_at, r.buckets,
    r.staged_values,
    p.value_count, p.accepted, p.duplicates, p.merged, p.corrected, p.refused AS refused_late,
    ARRAY(SELECT b.bucket FROM unnest(r.buckets) AS b (bucket)
        WHERE NOT EXISTS (SELECT FROM sheaf.ingest_parts w
            WHERE w.tenant_id = r.tenant_id AND w.request_key = r.request_key
                AND b.bucket = ANY (coalesce(w.buckets, ARRAY[w.bucket])))) AS missing
FROM sheaf.ingest_requests r
CROSS JOIN LATERAL (
    SELECT coalesce(sum(value_count), 0)::bigint AS value_count, coalesce(sum(accepted), 0)::bigint AS accepted,
        coalesce(sum(duplicates), 0)::bigint AS duplicates, coalesce(sum(merged), 0)::bigint AS merged,
        coalesce(sum(corrected), 0)::bigint AS corrected, coalesce(sum(refused), 0)::bigint AS refused,
        max(written_at) AS written_at
    FROM sheaf.ingest_parts p WHERE p.tenant_id = r.tenant_id AND p.request_key = r.request_key
) p
WHERE r.tenant_id = $1 AND r.request_key = $2
