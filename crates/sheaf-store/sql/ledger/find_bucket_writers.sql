-- Purpose: who wrote documents of some buckets last. Under the buckets' locks, the answer holds until the transaction ends.
-- Parameters: buckets. Index: bucket_writers_pkey. Locks: none.
SELECT bucket, written_by FROM sheaf.bucket_writers WHERE bucket = ANY ($1::integer[])
