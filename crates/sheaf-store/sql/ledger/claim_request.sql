-- Purpose: take a request's place in the ledger; no row where it was taken before, which makes this a retry.
--   While the first is still running, a second waits here for its end.
-- Parameters: tenant_id, request_key, batch_id, request_hash, outcome, ack, events, refused, received_at, durable_at.
-- Index: ingest_requests_pkey. Locks: one new row.
INSERT INTO sheaf.ingest_requests (tenant_id, request_key, batch_id, request_hash, outcome, ack, events, refused,
    received_at, durable_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (tenant_id, request_key) DO NOTHING
RETURNING batch_id
