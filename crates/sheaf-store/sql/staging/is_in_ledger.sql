-- Purpose: whether a key is taken in the ledger. After the registration, so that a flush which has moved the key there
--   meanwhile is seen.
-- Parameters: tenant_id, request_key. Index: ingest_requests_pkey. Locks: none.
SELECT EXISTS (SELECT FROM sheaf.ingest_requests WHERE tenant_id = $1 AND request_key = $2) AS is_taken
