-- Purpose: end a key for good. A second time changes nothing and still finds it.
-- Parameters: tenant_id, key_id, revoked_at. Index: api_keys_pkey. Locks: one row.
UPDATE sheaf.api_keys SET revoked_at = coalesce(revoked_at, $3)
WHERE tenant_id = $1 AND key_id = $2
RETURNING key_id
