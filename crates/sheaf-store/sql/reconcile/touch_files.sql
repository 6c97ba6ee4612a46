-- Purpose: remembers that files were read again and are what they were.
-- Parameters: locations, counted_at. Index: reconciled_files_pkey. Locks: their rows.
UPDATE sheaf.reconciled_files SET counted_at = $2::timestamptz WHERE location = ANY ($1::text[])
