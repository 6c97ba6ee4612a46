-- Purpose: keep everybody from writing events until the transaction ends, by the locks that writers take first. A flush
--   writes in subtransactions, whose numbers no snapshot lists; with these locks none is in the middle of it.
-- Parameters: none. Locks: every bucket's, in order.
SELECT sheaf.lock_every_bucket()
