-- Purpose: whether somebody takes a partition out of the history by hand, or began to: closed by another than whoever archives it. After it
--   was closed for its archive, in that transaction.
-- Parameters: partition_name, when it was closed for its archive. Index: detached_partitions_pkey, the catalogue's own. Locks: none.
SELECT EXISTS (SELECT FROM sheaf.detached_partitions d WHERE d.partition_name = $1::text AND d.closed_at <> $2::timestamptz)
    OR EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = to_regclass(format('sheaf.%I', $1::text)) AND i.inhdetachpending) AS is_leaving
