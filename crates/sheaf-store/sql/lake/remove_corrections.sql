-- Purpose: forgets events that waited and are in the lake's tables now.
-- Parameters: catalogue; their tenants, entities, observed_at and seq, at the same places. Index: lake_corrections_pkey.
--   Locks: the rows.
DELETE FROM sheaf.lake_corrections c
USING unnest($2::bigint[], $3::bigint[], $4::timestamptz[], $5::smallint[]) AS w (tenant_id, entity_id, observed_at, seq)
WHERE c.tenant_id = w.tenant_id AND c.entity_id = w.entity_id AND c.observed_at = w.observed_at AND c.seq = w.seq
    AND c.catalog_name = $1::text
