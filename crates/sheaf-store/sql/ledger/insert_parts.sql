-- Purpose: what each bucket's part of a request came to.
-- Parameters: tenant_id, request_key, then a row's columns as arrays: bucket, value_count, accepted, duplicates,
--   merged, corrected, refused. Index: ingest_parts_pkey. Locks: new rows.
INSERT INTO sheaf.ingest_parts (tenant_id, request_key, bucket, value_count, accepted, duplicates, merged, corrected, refused)
SELECT $1, $2, p.bucket, p.value_count, p.accepted, p.duplicates, p.merged, p.corrected, p.refused
FROM unnest($3::integer[], $4::bigint[], $5::integer[], $6::integer[], $7::integer[], $8::integer[], $9::integer[])
    AS p (bucket, value_count, accepted, duplicates, merged, corrected, refused)
