-- Purpose: which buckets of some requests have been written. Under the locks of the buckets that are asked about, the
--   answer holds until the transaction ends.
-- Parameters: tenant_ids, request_keys. Index: ingest_parts_pkey. Locks: none.
SELECT p.tenant_id, p.request_key, coalesce(p.buckets, ARRAY[p.bucket]) AS buckets
FROM unnest($1::bigint[], $2::text[]) AS r (tenant_id, request_key)
JOIN sheaf.ingest_parts p ON p.tenant_id = r.tenant_id AND p.request_key = r.request_key
