-- Purpose: the row of a lake's position, where it has none.
-- Parameters: catalogue, now. Index: lake_positions_pkey. Locks: the row.
INSERT INTO sheaf.lake_positions (catalog_name, committed_at) VALUES ($1::text, $2::timestamptz)
ON CONFLICT (catalog_name) DO NOTHING
