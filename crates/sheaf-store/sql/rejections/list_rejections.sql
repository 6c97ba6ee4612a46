-- Purpose: a page of refusals, newest first.
-- Parameters: tenant_id, then filters that null leaves out: batch_id, code, entity_type, status, from (inclusive), to
--   (exclusive); the rejection_id before which the page begins, or null; rejections_max.
-- Index: rejections_pkey, backwards. Locks: none.
SELECT rejection_id, batch_id, event_index, field, code, reason, raw, received_at, status
FROM sheaf.rejections
WHERE tenant_id = $1
    AND ($2::uuid IS NULL OR batch_id = $2)
    AND ($3::text IS NULL OR code = $3)
    AND ($4::text IS NULL OR entity_type = $4)
    AND ($5::text IS NULL OR status = $5)
    AND ($6::timestamptz IS NULL OR received_at >= $6)
    AND ($7::timestamptz IS NULL OR received_at < $7)
    AND ($8::uuid IS NULL OR rejection_id < $8)
ORDER BY rejection_id DESC
LIMIT $9
