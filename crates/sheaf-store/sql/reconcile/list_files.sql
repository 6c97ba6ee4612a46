-- Purpose: the files that were counted.
-- Parameters: none. Index: reconciled_files_pkey. Locks: none.
SELECT location FROM sheaf.reconciled_files
