-- Purpose: parts whose request is not in the ledger. A request that a client's key names is opened with its first part or
--   before it, so that a retry finds it. One without a key has its batch for one, and its parts are written side by
--   side: after a crash the one that opens it may be missing, and no client was told anything.
-- Parameters: none. Index: ingest_requests_pkey; reads the ledger's parts. Locks: none.
SELECT format('tenant %s: request %s has a part of bucket %s and is not in the ledger', p.tenant_id, p.request_key, p.bucket)
FROM sheaf.ingest_parts p
WHERE p.request_key LIKE 'k:%'
    AND NOT EXISTS (SELECT FROM sheaf.ingest_requests r WHERE r.tenant_id = p.tenant_id AND r.request_key = p.request_key)
LIMIT 100
