-- Purpose: the key with this public half, before its tenant is known.
-- Parameters: key_id. Index: api_keys_by_key_id, admin_keys_pkey. Locks: none.
SELECT tenant_id, tenant_name, key_hash, scopes, expires_at, revoked_at FROM sheaf.find_api_key($1)
