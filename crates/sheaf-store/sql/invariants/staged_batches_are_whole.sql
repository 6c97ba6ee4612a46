-- Purpose: staged batches that hold another number of events than they were registered with, and staged events of no
--   batch. Both are written in one transaction and taken away in one. Where the canary is gone or stands for another epoch,
--   a recovery has emptied the table, and what was registered before is lost.
-- Parameters: none. Index: entity_values_ingest_batch_id; reads every staged event. Locks: none; one that has begun keeps
--   the table from being emptied underneath, which no snapshot shows.
SELECT format('tenant %s: batch %s has %s staged events, and was registered with %s', tenant_id, batch_id,
    coalesce(i.events, 0), coalesce(b.staged_events::text, 'none'))
FROM (
    SELECT s.tenant_id, s.batch_id, s.staged_events
    FROM sheaf.staged_batches s JOIN sheaf.staging_canary c ON c.epoch = s.epoch
    WHERE s.status = 'staged'
) b
FULL JOIN (
    SELECT tenant_id, batch_id, count(*) AS events FROM sheaf.entity_values_ingest GROUP BY tenant_id, batch_id
) i USING (tenant_id, batch_id)
WHERE coalesce(i.events, 0) <> coalesce(b.staged_events, 0) AND EXISTS (SELECT FROM sheaf.staging_canary)
LIMIT 100
