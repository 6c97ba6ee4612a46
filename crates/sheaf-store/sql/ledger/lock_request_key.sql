-- Purpose: be the only one that stages or opens a request with a key until the transaction ends.
-- Parameters: tenant_id, request_key. Index: none.
-- Locks: one advisory lock, by a number; two keys with the same number wait for each other, and no more.
SELECT pg_advisory_xact_lock(hashtextextended($2::text, $1::bigint))
