-- Purpose: up to where history is closed to writes, and up to where it is answered from the lake. Whoever writes reads it under
--   the locks of his buckets, whoever reads in the snapshot of his rows.
-- Parameters: none. Index: none; one row. Locks: none.
SELECT closed_before, archived_before FROM sheaf.history_boundaries
