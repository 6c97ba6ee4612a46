-- Purpose: the staged request with a key, for a retry. Once flushed it is in the ledger.
-- Parameters: tenant_id, request_key. Index: staged_batches_request_key. Locks: none.
SELECT b.batch_id, b.request_hash, b.events, b.refused, b.value_count
FROM sheaf.staged_batches b
WHERE b.tenant_id = $1 AND b.request_key = $2 AND b.status = 'staged'
    AND b.epoch = (SELECT sheaf.staging_epoch())
