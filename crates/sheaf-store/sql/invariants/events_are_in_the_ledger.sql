-- Purpose: requests that stored another number of rows than the ledger says, and rows of no request at all. Each event
--   that was accepted, merged or corrected is one row.
-- Parameters: none. Index: none; reads the ledger and every event. Locks: none.
SELECT format('tenant %s: batch %s has %s rows, and %s by the ledger', tenant_id, batch_id, coalesce(e.stored, 0),
    coalesce(l.stored::text, 'is not known'))
FROM (
    SELECT tenant_id, batch_id, count(*) AS stored FROM sheaf.entity_events GROUP BY tenant_id, batch_id
) e
FULL JOIN (
    SELECT r.tenant_id, r.batch_id, coalesce(sum(p.accepted::bigint + p.merged + p.corrected), 0) AS stored
    FROM sheaf.ingest_requests r
    LEFT JOIN sheaf.ingest_parts p ON p.tenant_id = r.tenant_id AND p.request_key = r.request_key
    GROUP BY r.tenant_id, r.batch_id
) l USING (tenant_id, batch_id)
WHERE l.stored IS NULL OR coalesce(e.stored, 0) <> l.stored
LIMIT 100
