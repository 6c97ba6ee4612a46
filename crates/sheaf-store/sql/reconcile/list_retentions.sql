-- Purpose: how long the history of those tenants is kept of whom it is not kept for ever.
-- Parameters: none. Index: none, there are few tenants. Locks: none.
SELECT tenant_id, retention_micros FROM sheaf.tenants WHERE retention_micros IS NOT NULL
