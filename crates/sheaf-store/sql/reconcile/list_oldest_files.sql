-- Purpose: what was found in the files that were read the longest ago, before an instant.
-- Parameters: that instant; how many. Index: reconciled_files_counted_at. Locks: none.
SELECT location, is_corrected, tenants, hours, facts, sums::text[] AS sums FROM sheaf.reconciled_files
WHERE counted_at < $1::timestamptz ORDER BY counted_at LIMIT $2::bigint
