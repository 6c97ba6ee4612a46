-- Purpose: the documents as the merge left them; a part that is null stays as it is, so that it is neither sent nor parsed.
--   Columns of an index that did not change keep the update HOT. A document that is not of the version before is not the
--   one that was merged into, and stays; the writer sees that a row is missing.
-- Parameters: as insert_documents.sql. Index: entity_jsonb_pkey, one probe a document; a writer's transaction has no other
--   join. Locks: the rows, under their buckets' locks.
UPDATE sheaf.entity_jsonb d
SET version = n.version, newest = n.newest, floor_at = n.floor_at, deleted = n.deleted, updated_at = n.updated_at,
    hot_attrs = coalesce(n.hot_attrs, d.hot_attrs), cold_attrs = coalesce(n.cold_attrs, d.cold_attrs),
    present = coalesce(n.present::bigint[], d.present), times = coalesce(n.times, d.times)
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::timestamptz[], $5::timestamptz[], $6::boolean[], $7::timestamptz[],
    $8::jsonb[], $9::jsonb[], $10::text[], $11::jsonb[])
    AS n (tenant_id, entity_id, version, newest, floor_at, deleted, updated_at, hot_attrs, cold_attrs, present, times)
WHERE d.tenant_id = n.tenant_id AND d.entity_id = n.entity_id AND d.version = n.version - 1
