-- Purpose: a new key of a tenant.
-- Parameters: tenant_id, key_id, key_hash, scopes, created_at, expires_at. Index: api_keys_pkey. Locks: one row.
INSERT INTO sheaf.api_keys (tenant_id, key_id, key_hash, scopes, created_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6)
