-- Purpose: end an administrator's key for good. Runs as sheaf_upkeep: no request can do it. A second time changes nothing
--   and still finds it.
-- Parameters: key_id, revoked_at. Index: admin_keys_pkey. Locks: one row.
UPDATE sheaf.admin_keys SET revoked_at = coalesce(revoked_at, $2)
WHERE key_id = $1
RETURNING key_id
