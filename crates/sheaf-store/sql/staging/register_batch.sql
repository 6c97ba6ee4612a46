-- Purpose: register a request whose events are staged in the same transaction. No batch_id where its key is taken by
--   another that is staged, and no epoch either where everything that was staged is lost and nobody has said so yet.
-- Parameters: tenant_id, batch_id, request_key, request_hash, events, refused, staged_events, value_count, buckets,
--   received_at. Index: staged_batches_request_key. Locks: one new row; waits for the end of another with the same key.
WITH registered AS (
    INSERT INTO sheaf.staged_batches (tenant_id, batch_id, request_key, request_hash, epoch, events, refused, staged_events,
        value_count, buckets, received_at, staged_at)
    SELECT $1, $2, $3, $4, c.epoch, $5, $6, $7, $8, $9::integer[], $10, clock_timestamp()
    FROM (SELECT sheaf.staging_epoch() AS epoch) c
    WHERE c.epoch IS NOT NULL
    ON CONFLICT (tenant_id, request_key) WHERE status = 'staged' DO NOTHING
    RETURNING batch_id
)
SELECT (SELECT batch_id FROM registered) AS batch_id, sheaf.staging_epoch() AS epoch
