-- Purpose: remember batches that were acknowledged and whose registration a recovery took back with their rows.
-- Parameters: a row's columns as arrays: tenant_id, batch_id, epoch, events, refused, staged_events, value_count,
--   received_at. Index: staged_batches_pkey. Locks: new rows.
INSERT INTO sheaf.staged_batches (tenant_id, batch_id, request_key, request_hash, epoch, status, events, refused,
    staged_events, value_count, buckets, received_at, staged_at)
SELECT l.tenant_id, l.batch_id, l.batch_id::text, '', l.epoch, 'lost', l.events, l.refused, l.staged_events, l.value_count,
    '{}', l.received_at, l.received_at
FROM unnest($1::bigint[], $2::uuid[], $3::bigint[], $4::integer[], $5::integer[], $6::integer[], $7::bigint[], $8::timestamptz[])
    AS l (tenant_id, batch_id, epoch, events, refused, staged_events, value_count, received_at)
WHERE l.epoch < (SELECT max(e.epoch) FROM sheaf.staging_epochs e)
    AND NOT EXISTS (SELECT FROM sheaf.ingest_requests q WHERE q.tenant_id = l.tenant_id AND q.batch_id = l.batch_id)
ORDER BY l.tenant_id, l.batch_id
ON CONFLICT (tenant_id, batch_id) DO NOTHING
