-- Purpose: buckets of a request that two of its parts have written, so that a retry has stored events twice or counted
--   them twice; buckets that the request has no event in; and parts that are not named by their lowest bucket, by which
--   one that is written twice meets itself.
-- Parameters: none. Index: ingest_requests_pkey; reads the ledger's parts. Locks: none.
SELECT format('tenant %s: request %s has bucket %s in %s parts', b.tenant_id, b.request_key, b.bucket, count(*))
FROM (
    SELECT p.tenant_id, p.request_key, unnest(coalesce(p.buckets, ARRAY[p.bucket])) AS bucket FROM sheaf.ingest_parts p
) b
GROUP BY b.tenant_id, b.request_key, b.bucket
HAVING count(*) > 1
UNION ALL
SELECT format('tenant %s: request %s has a part of buckets %s, and events in %s', p.tenant_id, p.request_key,
    coalesce(p.buckets, ARRAY[p.bucket]), r.buckets)
FROM sheaf.ingest_parts p
JOIN sheaf.ingest_requests r ON r.tenant_id = p.tenant_id AND r.request_key = p.request_key
WHERE NOT coalesce(p.buckets, ARRAY[p.bucket]) <@ r.buckets
UNION ALL
SELECT format('tenant %s: request %s has a part %s of buckets %s', p.tenant_id, p.request_key, p.bucket, p.buckets)
FROM sheaf.ingest_parts p
WHERE p.bucket IS DISTINCT FROM (SELECT min(b.bucket) FROM unnest(p.buckets) AS b (bucket)) AND p.buckets IS NOT NULL
LIMIT 100
