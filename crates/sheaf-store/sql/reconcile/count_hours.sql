-- Purpose: how many hours of tenants are compared.
-- Parameters: none. Index: reconciled_hours_hour. Locks: none.
SELECT count(*) AS hours FROM sheaf.reconciled_hours
