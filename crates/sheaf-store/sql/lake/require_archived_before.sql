-- Purpose: fail where history is archived up to elsewhere than whoever begins a lake anew has kept. In the transaction of the commit,
--   after the row of its position, which whoever moves the boundary locks as well.
-- Parameters: archived_before as it was read. Locks: none.
SELECT sheaf.require_archived_before($1)
