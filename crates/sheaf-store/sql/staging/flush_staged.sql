-- Purpose: move staged batches into history and documents. In the flusher's transaction.
-- Parameters: events_max. Index: staged_batches_queue, entity_values_ingest_batch_id, entity_jsonb_pkey.
-- Locks: ROW EXCLUSIVE on entity_values_ingest (ACCESS EXCLUSIVE when it is emptied), the batches' rows, the advisory locks
--   of their buckets.
SELECT batches, events, duplicates, merged, corrected FROM sheaf.stage_flush($1)
