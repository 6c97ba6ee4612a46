-- Purpose: a new key of an administrator. Runs as sheaf_upkeep: no request can do it.
-- Parameters: key_id, key_hash, created_at. Index: admin_keys_pkey. Locks: one row.
INSERT INTO sheaf.admin_keys (key_id, key_hash, created_at) VALUES ($1, $2, $3)
