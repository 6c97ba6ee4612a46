-- Purpose: a snapshot of the transactions before a number that have ended by now, and a position that covers all of them: it is read
--   after that. A snapshot does not list subtransactions, and one that has ended looks committed while its transaction goes on: so those
--   that run are given the time to end before.
-- Parameters: the number. Index: none. Locks: none.
SELECT coalesce(min(r.number), $1::bigint)::text || ':' || $1::bigint || ':' || coalesce(string_agg(r.number::text, ',' ORDER BY r.number), '')
        AS snapshot,
    pg_current_wal_insert_lsn()::text AS lsn, substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) AS timeline
FROM (SELECT x::text::bigint AS number FROM pg_snapshot_xip(pg_current_snapshot()) x) r
WHERE r.number < $1::bigint
