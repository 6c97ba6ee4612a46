-- Purpose: the corrections of some instants that wait until the lake's files are written anew.
-- Parameters: catalogue; tenants, entities, observed_ats. Index: lake_corrections_pkey. Locks: none.
SELECT c.tenant_id, c.entity_id, c.observed_at, c.seq, c.op, c.batch_id, c.ingested_at, c.attrs::text AS attrs
FROM unnest($2::bigint[], $3::bigint[], $4::timestamptz[]) u (tenant_id, entity_id, observed_at)
JOIN sheaf.lake_corrections c ON c.tenant_id = u.tenant_id AND c.entity_id = u.entity_id AND c.observed_at = u.observed_at
WHERE c.catalog_name = $1::text
ORDER BY c.tenant_id, c.entity_id, c.observed_at, c.seq
