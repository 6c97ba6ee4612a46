-- Purpose: the number that the next transaction gets, and when that is.
-- Parameters: none. Index: none. Locks: none.
SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next_number, clock_timestamp() AS taken_at
