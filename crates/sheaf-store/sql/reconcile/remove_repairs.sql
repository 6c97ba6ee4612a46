-- Purpose: forgets repairs that are done, with the commit of the lake that does them.
-- Parameters: catalogue; tenants, entities, observed_ats, seqs. Index: lake_repairs_pkey. Locks: the rows.
DELETE FROM sheaf.lake_repairs r
USING unnest($2::bigint[], $3::bigint[], $4::timestamptz[], $5::smallint[]) u (tenant_id, entity_id, observed_at, seq)
WHERE r.catalog_name = $1::text AND r.tenant_id = u.tenant_id AND r.entity_id = u.entity_id AND r.observed_at = u.observed_at AND r.seq = u.seq
