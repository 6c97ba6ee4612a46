-- Purpose: of these instants of entities, those of which events wait.
-- Parameters: catalogue; tenants, entities and observed_at, at the same places. Index: lake_corrections_pkey. Locks: none.
SELECT w.tenant_id, w.entity_id, w.observed_at
FROM unnest($2::bigint[], $3::bigint[], $4::timestamptz[]) AS w (tenant_id, entity_id, observed_at)
WHERE EXISTS (SELECT FROM sheaf.lake_corrections c
    WHERE c.tenant_id = w.tenant_id AND c.entity_id = w.entity_id AND c.observed_at = w.observed_at AND c.catalog_name = $1::text)
