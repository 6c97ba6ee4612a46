-- Purpose: the epoch of what is staged, a new one where a recovery has emptied the staging table; and how many batches are
--   lost with that.
-- Parameters: none. Locks: none; after a loss an advisory lock among finders, and ACCESS EXCLUSIVE on the empty table.
SELECT epoch, batches_lost FROM sheaf.detect_staging_loss()
