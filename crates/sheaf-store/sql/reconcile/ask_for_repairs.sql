-- Purpose: asks the writer of a lake to make events what they are here, in place of what was asked of the same events before.
-- Parameters: catalogue; tenants, entities, observed_ats, seqs, ops, batch_ids, ingested_ats, attrs, those of events that are not
--   here null; the position of the lake's snapshot: timeline, lsn; when. Index: lake_repairs_pkey. Locks: the rows.
INSERT INTO sheaf.lake_repairs (tenant_id, entity_id, observed_at, seq, catalog_name, op, batch_id, ingested_at, attrs, base_timeline, base_lsn, asked_at)
SELECT a.tenant_id, a.entity_id, a.observed_at, a.seq, $1::text, a.op, a.batch_id, a.ingested_at, a.attrs::jsonb, $10::bigint, $11::text::pg_lsn,
    $12::timestamptz
FROM unnest($2::bigint[], $3::bigint[], $4::timestamptz[], $5::smallint[], $6::"char"[], $7::uuid[], $8::timestamptz[], $9::text[])
    a (tenant_id, entity_id, observed_at, seq, op, batch_id, ingested_at, attrs)
ORDER BY a.tenant_id, a.entity_id, a.observed_at, a.seq
ON CONFLICT (tenant_id, entity_id, observed_at, seq, catalog_name) DO UPDATE
SET op = excluded.op, batch_id = excluded.batch_id, ingested_at = excluded.ingested_at, attrs = excluded.attrs,
    base_timeline = excluded.base_timeline, base_lsn = excluded.base_lsn, asked_at = excluded.asked_at
