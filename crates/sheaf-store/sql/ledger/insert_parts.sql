-- Purpose: what parts of requests came to.
-- Parameters: a row's columns as arrays: tenant_id, request_key, buckets (as text, ascending), value_count, accepted,
--   duplicates, merged, corrected, refused. Index: ingest_parts_pkey. Locks: new rows, under their buckets' locks.
INSERT INTO sheaf.ingest_parts (tenant_id, request_key, bucket, buckets, value_count, accepted, duplicates, merged, corrected,
    refused, written_at)
SELECT p.tenant_id, p.request_key, (p.buckets::integer[])[1], p.buckets::integer[], p.value_count, p.accepted, p.duplicates,
    p.merged, p.corrected, p.refused, clock_timestamp()
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::integer[], $6::integer[], $7::integer[], $8::integer[],
    $9::integer[])
    AS p (tenant_id, request_key, buckets, value_count, accepted, duplicates, merged, corrected, refused)
