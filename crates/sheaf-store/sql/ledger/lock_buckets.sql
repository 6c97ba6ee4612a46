-- Purpose: be the only writer of some buckets until the transaction ends, whatever the number of servers.
-- Parameters: the buckets, ascending: everybody takes them in this order, so that nobody waits in a circle.
-- Locks: one advisory lock a bucket.
SELECT pg_advisory_xact_lock(24239, b.bucket) FROM unnest($1::integer[]) AS b (bucket)
