-- Purpose: how many letters of a sink wait, how many of them are to be offered again, and how many bytes they are.
-- Parameters: the slot's name, the sink's. Index: dead_letters_waiting. Locks: none.
SELECT count(*) AS waiting, count(*) FILTER (WHERE status = 'replay_asked') AS asked,
    coalesce(sum(payload_bytes), 0)::bigint AS payload_bytes
FROM sheaf.dead_letters
WHERE slot_name = $1::text AND sink_name = $2::text AND status IN ('open', 'replay_asked')
