-- Purpose: requests of the ledger whose events are not, each once, refused or in one of its parts. A part may be missing
--   for ever, since a client need not come again after an error; each missing bucket stands for an event or more.
-- Parameters: none. Index: ingest_parts_pkey; reads the ledger. Locks: none.
SELECT format('tenant %s: request %s is %s with %s events, %s refused and %s in %s parts, %s buckets missing', r.tenant_id,
    r.request_key, r.outcome, r.events, r.refused, coalesce(p.events, 0), coalesce(p.parts, 0), m.missing)
FROM sheaf.ingest_requests r
LEFT JOIN (
    SELECT tenant_id, request_key, count(*) AS parts,
        sum(accepted::bigint + duplicates + merged + corrected + refused) AS events
    FROM sheaf.ingest_parts GROUP BY tenant_id, request_key
) p ON p.tenant_id = r.tenant_id AND p.request_key = r.request_key
CROSS JOIN LATERAL (
    SELECT count(*) AS missing FROM unnest(r.buckets) AS b (bucket)
    WHERE NOT EXISTS (SELECT FROM sheaf.ingest_parts w
        WHERE w.tenant_id = r.tenant_id AND w.request_key = r.request_key
            AND b.bucket = ANY (coalesce(w.buckets, ARRAY[w.bucket])))
) m
WHERE CASE
    WHEN r.outcome NOT IN ('stored', 'stored_in_parts') THEN r.events <> r.refused OR p.parts IS NOT NULL
    WHEN m.missing = 0 THEN r.events <> r.refused + coalesce(p.events, 0)
    ELSE r.events < r.refused + coalesce(p.events, 0) + m.missing
END
LIMIT 100
