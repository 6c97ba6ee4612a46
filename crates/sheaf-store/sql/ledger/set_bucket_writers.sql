-- Purpose: be known as the one that wrote documents of some buckets last.
-- Parameters: buckets, written_by. Index: bucket_writers_pkey. Locks: one row a bucket, under the bucket's lock.
UPDATE sheaf.bucket_writers SET written_by = $2 WHERE bucket = ANY ($1::integer[])
