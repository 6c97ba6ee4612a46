-- Purpose: the schema that holds everything of ours, the version table included. Runs as sheaf_owner.
-- Parameters: none. Locks: none that matter.
CREATE SCHEMA IF NOT EXISTS sheaf;
