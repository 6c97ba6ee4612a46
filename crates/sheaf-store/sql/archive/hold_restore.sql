-- Purpose: keep others from putting an archived partition back while one is loaded and compared, and whether nobody else does.
-- Parameters: none. Index: none. Locks: an advisory one, until the transaction ends.
SELECT pg_try_advisory_xact_lock(24239, -8) AS is_held
