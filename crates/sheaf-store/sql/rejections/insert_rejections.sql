-- Purpose: keep what was refused, whole, with its reason and with how it was to be read.
-- Parameters: tenant_id, batch_id, received_at, then a row's columns as arrays: rejection_id, event_index, ordinal,
--   entity_type, field, code, reason, raw, format, precision, id_tags, external_id, observed_at.
-- Index: rejections_pkey. Locks: new rows.
INSERT INTO sheaf.rejections (tenant_id, batch_id, received_at, rejection_id, event_index, ordinal, entity_type, field,
    code, reason, raw, format, precision, id_tags, external_id, observed_at)
SELECT $1, $2, $3, r.rejection_id, r.event_index, r.ordinal, r.entity_type, r.field, r.code, r.reason, r.raw, r.format,
    r.precision, r.id_tags, r.external_id, r.observed_at
FROM unnest($4::uuid[], $5::integer[], $6::integer[], $7::text[], $8::text[], $9::text[], $10::text[], $11::bytea[],
    $12::text[], $13::text[], $14::jsonb[], $15::text[], $16::timestamptz[])
    AS r (rejection_id, event_index, ordinal, entity_type, field, code, reason, raw, format, precision, id_tags,
        external_id, observed_at)
