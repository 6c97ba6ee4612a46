-- Purpose: how much is staged, and since when: but for batches that are flushed by themselves because flushes with them have
--   failed, which are counted apart. They wait for another reason than the flushes' being behind, as long as they are few.
-- Parameters: none. Index: staged_batches_queue. Locks: none.
SELECT s.batches, s.events, s.put_aside,
    coalesce(extract(epoch FROM clock_timestamp() - CASE WHEN s.put_aside > 100 THEN s.oldest ELSE s.oldest_in_turn END), 0)
        ::double precision AS oldest_seconds
FROM (
    SELECT count(*) AS batches, coalesce(sum(b.staged_events), 0)::bigint AS events,
        count(*) FILTER (WHERE b.flush_failures >= 3) AS put_aside, min(b.staged_at) AS oldest,
        min(b.staged_at) FILTER (WHERE b.flush_failures < 3) AS oldest_in_turn
    FROM sheaf.staged_batches b WHERE b.status = 'staged'
) s
