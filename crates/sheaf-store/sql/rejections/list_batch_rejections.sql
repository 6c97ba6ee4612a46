-- Purpose: the first refusals of a request, as its answer lists them.
-- Parameters: tenant_id, batch_id, rejections_max. Index: rejections_batch_key. Locks: none.
SELECT event_index, field, code, reason, raw
FROM sheaf.rejections
WHERE tenant_id = $1 AND batch_id = $2
ORDER BY event_index, ordinal
LIMIT $3
