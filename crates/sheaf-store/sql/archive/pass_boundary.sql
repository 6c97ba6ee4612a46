-- Purpose: let reads of a partition's time ask the lake, which was found to hold all of it. False where that was done before.
-- Parameters: partition_name, the catalogue, the timeline and position that the compared lake began with, its events, facts and digest, now.
-- Index: lake_positions_pkey, partition_archives_pkey. Locks: the rows of the lake's position and of the archive.
SELECT sheaf.pass_boundary($1, $2, $3, $4::text::pg_lsn, $5, $6, $7, $8) AS is_done
