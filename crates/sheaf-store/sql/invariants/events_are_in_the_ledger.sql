-- Purpose: requests that stored another number of rows than the ledger says, and rows of no request at all. Each event
--   that was accepted, merged or corrected is one row. Parts whose request was never opened, as a crash leaves them, do not
--   know its batch: their rows are compared as a whole. Rows of an hour ago and before, which is the nearest that the
--   horizon can be, may be of requests that the ledger has forgotten with their parts; those of requests that arrived before
--   a partition was closed and archived may be in the lake.
-- Parameters: none. Index: none; reads the ledger and every event. Locks: none.
WITH
stored AS (
    SELECT tenant_id, batch_id, count(*) AS events, max(ingested_at) AS ingested_at
    FROM (
        SELECT tenant_id, batch_id, ingested_at FROM sheaf.entity_events
        UNION ALL SELECT tenant_id, batch_id, ingested_at FROM sheaf.entity_events_late
    ) e GROUP BY tenant_id, batch_id
),
recorded AS (
    SELECT tenant_id, r.batch_id, coalesce(sum(p.accepted::bigint + p.merged + p.corrected), 0) AS events,
        min(r.received_at) <= (SELECT max(a.closed_at) FROM sheaf.partition_archives a WHERE a.state IN ('detached', 'verified', 'dropped'))
            AS may_be_archived
    FROM sheaf.ingest_requests r FULL JOIN sheaf.ingest_parts p USING (tenant_id, request_key)
    GROUP BY tenant_id, r.batch_id
),
stored_by_none AS (
    SELECT s.tenant_id, sum(s.events) AS events,
        coalesce(sum(s.events) FILTER (WHERE s.ingested_at > now() - interval '1 hour'), 0) AS of_late
    FROM stored s
    WHERE NOT EXISTS (SELECT FROM sheaf.ingest_requests r WHERE r.tenant_id = s.tenant_id AND r.batch_id = s.batch_id)
    GROUP BY s.tenant_id
)
SELECT format('tenant %s: batch %s has %s rows, and %s by the ledger', r.tenant_id, r.batch_id, coalesce(s.events, 0), r.events)
FROM recorded r LEFT JOIN stored s ON s.tenant_id = r.tenant_id AND s.batch_id = r.batch_id
WHERE r.batch_id IS NOT NULL AND coalesce(s.events, 0) <> r.events
    AND NOT (coalesce(r.may_be_archived, false) AND coalesce(s.events, 0) < r.events)
UNION ALL
SELECT format('tenant %s: %s rows are of no request, %s of the last hour, and %s by the parts of none', tenant_id,
    coalesce(s.events, 0), coalesce(s.of_late, 0), coalesce(r.events, 0))
FROM stored_by_none s
FULL JOIN (SELECT tenant_id, events FROM recorded WHERE batch_id IS NULL) r USING (tenant_id)
WHERE coalesce(r.events, 0) < coalesce(s.of_late, 0) OR (coalesce(r.events, 0) > coalesce(s.events, 0)
    AND NOT EXISTS (SELECT FROM sheaf.partition_archives a WHERE a.state IN ('detached', 'verified', 'dropped')))
LIMIT 100
