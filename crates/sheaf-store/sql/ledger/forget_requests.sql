-- Purpose: forget requests that arrived before the horizon, with their parts, in one step: parts without their request would
--   be taken for those of another with its key. One with a key that lacks parts stays twice as long, since a retry may be
--   writing them; without a key there can be no retry. Parts of those without a key whose opening part failed never had a
--   request, and go by their own time; they are not counted.
-- Parameters: horizon, requests_max. Index: ingest_requests_received_at, ingest_parts_written_at, ingest_parts_pkey.
-- Locks: the rows of the requests, those skipped that another server forgets; a retry with such a key waits for the commit.
WITH old AS MATERIALIZED (
    SELECT q.tenant_id, q.request_key
    FROM sheaf.ingest_requests q
    WHERE q.received_at < $1
        AND (q.request_hash = '' OR q.received_at < $1 - (now() - $1) OR NOT EXISTS (SELECT FROM unnest(q.buckets) AS b (bucket)
            WHERE NOT EXISTS (SELECT FROM sheaf.ingest_parts w
                WHERE w.tenant_id = q.tenant_id AND w.request_key = q.request_key
                    AND b.bucket = ANY (coalesce(w.buckets, ARRAY[w.bucket])))))
    LIMIT $2
    FOR UPDATE SKIP LOCKED
), parts AS (
    DELETE FROM sheaf.ingest_parts p USING old o
    WHERE p.tenant_id = o.tenant_id AND p.request_key = o.request_key
), without_request AS MATERIALIZED (
    SELECT w.tenant_id, w.request_key
    FROM sheaf.ingest_parts w
    WHERE w.written_at < $1 AND w.request_key NOT LIKE 'k:%'
        AND NOT EXISTS (SELECT FROM sheaf.ingest_requests q
            WHERE q.tenant_id = w.tenant_id AND q.request_key = w.request_key)
    LIMIT $2
), left_over AS (
    DELETE FROM sheaf.ingest_parts p USING without_request o
    WHERE p.tenant_id = o.tenant_id AND p.request_key = o.request_key
), requests AS (
    DELETE FROM sheaf.ingest_requests q USING old o
    WHERE q.tenant_id = o.tenant_id AND q.request_key = o.request_key
    RETURNING 1
)
SELECT count(*) AS forgotten FROM requests
