-- Purpose: an entity's rows before one of them, newest first, at most rows_max, that say something that the newer ones
--   did not: replaces, deletes, and rows that name another attribute than the keys. The rest is read and left behind
--   in the server, which is what makes the state at an old instant of a long history affordable.
-- Parameters: tenant_id, type, id, time and seq of the row after, from (inclusive), keys or null for every row, rows_max.
-- Index: entities_external_id_key; entity_events_pkey, backwards. Locks: none.
SELECT e.observed_at, e.seq, e.op, e.batch_id, e.ingested_at, e.attrs
FROM sheaf.entity_events e
WHERE e.tenant_id = $1
    AND e.entity_id = (SELECT n.entity_id FROM sheaf.entities n
        WHERE n.tenant_id = $1 AND n.entity_type = $2 AND n.external_id = $3)
    AND e.observed_at >= $6 AND e.observed_at <= $4 AND (e.observed_at, e.seq) < ($4, $5)
    AND ($7::text[] IS NULL OR e.op IN ('r', 'd') OR e.attrs - $7::text[] <> '{}')
ORDER BY e.observed_at DESC, e.seq DESC
LIMIT $8
