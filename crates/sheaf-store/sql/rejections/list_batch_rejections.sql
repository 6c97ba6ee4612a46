-- Purpose: the first refusals of a request, as its answer lists them, and the event of the very first one. What the flush
--   refused of a staged request, its answer did not know.
-- Parameters: tenant_id, batch_id, rejections_max. Index: rejections_batch_key. Locks: none.
SELECT event_index, field, code, reason,
    CASE WHEN row_number() OVER (ORDER BY event_index, ordinal) = 1 THEN raw END AS raw
FROM sheaf.rejections
WHERE tenant_id = $1 AND batch_id = $2 AND refused_in_flush IS NOT TRUE
ORDER BY event_index, ordinal
LIMIT $3
