-- Purpose: keep what was refused, whole and with its reason.
-- Parameters: tenant_id, batch_id, received_at, then a row's columns as arrays: rejection_id, event_index, ordinal,
--   entity_type, field, code, reason, raw. Index: rejections_pkey. Locks: new rows.
INSERT INTO sheaf.rejections (tenant_id, batch_id, received_at, rejection_id, event_index, ordinal, entity_type, field,
    code, reason, raw)
SELECT $1, $2, $3, r.rejection_id, r.event_index, r.ordinal, r.entity_type, r.field, r.code, r.reason, r.raw
FROM unnest($4::uuid[], $5::integer[], $6::integer[], $7::text[], $8::text[], $9::text[], $10::text[], $11::bytea[])
    AS r (rejection_id, event_index, ordinal, entity_type, field, code, reason, raw)
