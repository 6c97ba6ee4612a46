-- Purpose: how many letters wait, by sink and reason, the most first.
-- Parameters: none. Index: dead_letters_waiting. Locks: none.
SELECT sink_name, reason, count(*) AS waiting
FROM sheaf.dead_letters
WHERE status IN ('open', 'replay_asked')
GROUP BY sink_name, reason
ORDER BY count(*) DESC, sink_name, reason
LIMIT 10
