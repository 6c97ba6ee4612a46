-- Purpose: forget batches that were lost and arrived before the horizon.
-- Parameters: horizon, batches_max. Index: none: the table holds what waits and what was lost. Locks: their rows.
WITH old AS MATERIALIZED (
    SELECT b.tenant_id, b.batch_id FROM sheaf.staged_batches b
    WHERE b.status = 'lost' AND b.received_at < $1
    LIMIT $2
    FOR UPDATE SKIP LOCKED
), batches AS (
    DELETE FROM sheaf.staged_batches b USING old o
    WHERE b.tenant_id = o.tenant_id AND b.batch_id = o.batch_id
    RETURNING 1
)
SELECT count(*) AS forgotten FROM batches
