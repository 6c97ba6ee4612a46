-- Purpose: take the places of some requests in the ledger; no row for one that was taken before, which makes it a retry.
--   While the first is still running, a second waits here for its end. In order of key, so that nobody waits in a circle.
-- Parameters: a row's columns as arrays: tenant_id, request_key, batch_id, request_hash, outcome, ack, events, refused,
--   received_at, buckets (as text). What is durable is so from about now on, by the database's clock. Index: ingest_requests_pkey. Locks: new rows.
INSERT INTO sheaf.ingest_requests (tenant_id, request_key, batch_id, request_hash, outcome, ack, events, refused,
    received_at, durable_at, buckets)
SELECT r.tenant_id, r.request_key, r.batch_id, r.request_hash, r.outcome, r.ack, r.events, r.refused, r.received_at,
    clock_timestamp(), r.buckets::integer[]
FROM unnest($1::bigint[], $2::text[], $3::uuid[], $4::bytea[], $5::text[], $6::text[], $7::integer[], $8::integer[],
    $9::timestamptz[], $10::text[])
    AS r (tenant_id, request_key, batch_id, request_hash, outcome, ack, events, refused, received_at, buckets)
ORDER BY r.tenant_id, r.request_key
ON CONFLICT (tenant_id, request_key) DO NOTHING
RETURNING tenant_id, request_key
