-- Purpose: the documents of entities that had no event before.
-- Parameters: a row's columns as arrays: tenant_id, entity_id, version, newest, floor_at, deleted, updated_at, hot_attrs,
--   cold_attrs, present (as text), times. Index: entity_jsonb_pkey. Locks: new rows.
INSERT INTO sheaf.entity_jsonb (tenant_id, entity_id, version, newest, floor_at, deleted, updated_at, hot_attrs,
    cold_attrs, present, times)
SELECT n.tenant_id, n.entity_id, n.version, n.newest, n.floor_at, n.deleted, n.updated_at, n.hot_attrs, n.cold_attrs,
    n.present::bigint[], n.times
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::timestamptz[], $5::timestamptz[], $6::boolean[], $7::timestamptz[],
    $8::jsonb[], $9::jsonb[], $10::text[], $11::jsonb[])
    AS n (tenant_id, entity_id, version, newest, floor_at, deleted, updated_at, hot_attrs, cold_attrs, present, times)
