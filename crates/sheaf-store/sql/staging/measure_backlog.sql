-- Purpose: how much is staged, and since when.
-- Parameters: none. Index: staged_batches_queue. Locks: none.
SELECT count(*) AS batches, coalesce(sum(staged_events), 0)::bigint AS events,
    coalesce(extract(epoch FROM clock_timestamp() - min(staged_at)), 0)::double precision AS oldest_seconds
FROM sheaf.staged_batches WHERE status = 'staged'
