-- Purpose: how many events of a request had anything refused when it was answered.
-- Parameters: tenant_id, batch_id. Index: rejections_batch_key. Locks: none.
SELECT count(DISTINCT event_index) AS bad_events FROM sheaf.rejections
WHERE tenant_id = $1 AND batch_id = $2 AND refused_in_flush IS NOT TRUE
