-- Purpose: the documents as the merge left them. Columns of an index that did not change keep the update HOT.
-- Parameters: as insert_documents.sql. Index: entity_jsonb_pkey. Locks: the rows, under their buckets' locks.
UPDATE sheaf.entity_jsonb d
SET version = n.version, newest = n.newest, floor_at = n.floor_at, deleted = n.deleted, updated_at = n.updated_at,
    hot_attrs = n.hot_attrs, cold_attrs = n.cold_attrs, present = n.present::bigint[], times = n.times
FROM unnest($2::bigint[], $3::bigint[], $4::timestamptz[], $5::timestamptz[], $6::boolean[], $7::timestamptz[],
    $8::jsonb[], $9::jsonb[], $10::text[], $11::jsonb[])
    AS n (entity_id, version, newest, floor_at, deleted, updated_at, hot_attrs, cold_attrs, present, times)
WHERE d.tenant_id = $1 AND d.entity_id = n.entity_id
