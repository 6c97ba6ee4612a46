-- Purpose: events that have to wait until the files that they change are rewritten. One that waits already stays as it is.
-- Parameters: catalogue; their tenants, entities, observed_at, seq, op, batch, ingested_at and attrs, at the same places; now; timeline
--   and lsn below which none of them was committed, or nulls. Index: lake_corrections_pkey. Locks: the rows.
INSERT INTO sheaf.lake_corrections (tenant_id, entity_id, observed_at, seq, catalog_name, op, batch_id, ingested_at, attrs, noted_at,
    held_timeline, held_lsn)
SELECT w.tenant_id, w.entity_id, w.observed_at, w.seq, $1::text, w.op, w.batch_id, w.ingested_at, w.attrs::jsonb, $10::timestamptz,
    $11::bigint, $12::text::pg_lsn
FROM unnest($2::bigint[], $3::bigint[], $4::timestamptz[], $5::smallint[], $6::"char"[], $7::uuid[], $8::timestamptz[], $9::text[])
    AS w (tenant_id, entity_id, observed_at, seq, op, batch_id, ingested_at, attrs)
ON CONFLICT (tenant_id, entity_id, observed_at, seq, catalog_name) DO NOTHING
