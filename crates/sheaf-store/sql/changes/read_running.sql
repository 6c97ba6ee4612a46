-- Purpose: the number that the next transaction gets, and the oldest of those that are running: once that has passed what the
--   first was, everybody who was in the middle of something then has ended.
-- Parameters: none. Locks: none.
SELECT pg_snapshot_xmax(s.taken)::text::bigint AS next_number, pg_snapshot_xmin(s.taken)::text::bigint AS oldest_number
FROM (SELECT pg_current_snapshot() AS taken) s
