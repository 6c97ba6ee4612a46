-- Purpose: remembers what is in a file of the lake.
-- Parameters: location, is_corrected, tenants, hours, facts, sums, counted_at. Index: reconciled_files_pkey. Locks: its row.
INSERT INTO sheaf.reconciled_files (location, is_corrected, tenants, hours, facts, sums, counted_at)
VALUES ($1::text, $2::boolean, $3::bigint[], $4::bigint[], $5::bigint[], $6::text[]::numeric[], $7::timestamptz)
