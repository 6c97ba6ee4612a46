-- Purpose: a tenant's keys, without what would open anything.
-- Parameters: tenant_id. Index: api_keys_pkey. Locks: none.
SELECT key_id, scopes, created_at, expires_at, revoked_at
FROM sheaf.api_keys
WHERE tenant_id = $1
ORDER BY key_id
LIMIT 1000
