-- Purpose: requests of the ledger whose events are not, each once, refused or in one of its parts.
-- Parameters: none. Index: ingest_parts_pkey; reads the ledger. Locks: none.
SELECT format('tenant %s: request %s is %s with %s events, %s refused and %s in %s parts', r.tenant_id, r.request_key,
    r.outcome, r.events, r.refused, coalesce(p.events, 0), coalesce(p.parts, 0))
FROM sheaf.ingest_requests r
LEFT JOIN (
    SELECT tenant_id, request_key, count(*) AS parts,
        sum(accepted::bigint + duplicates + merged + corrected + refused) AS events
    FROM sheaf.ingest_parts GROUP BY tenant_id, request_key
) p ON p.tenant_id = r.tenant_id AND p.request_key = r.request_key
WHERE CASE r.outcome
    WHEN 'stored' THEN r.events <> r.refused + coalesce(p.events, 0)
    ELSE r.events <> r.refused OR p.parts IS NOT NULL
END
LIMIT 100
