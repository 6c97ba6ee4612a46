-- Purpose: confirm that flushes which had committed at the last call are on disk, and look again.
-- Parameters: none. Locks: the canary's row, which others skip.
SELECT seen_at, confirmed_at FROM sheaf.confirm_staging()
