-- Purpose: say what the table of versions is, which the migration runner makes by itself. Runs as sheaf_owner.
-- Parameters: none. Locks: none that readers or writers meet.
DO $comments$
BEGIN
    COMMENT ON TABLE sheaf.schema_version IS 'Which migrations have run; written by the migration runner.';
    COMMENT ON COLUMN sheaf.schema_version.version IS 'The migration''s number.';
    COMMENT ON COLUMN sheaf.schema_version.name IS 'The migration''s name.';
    COMMENT ON COLUMN sheaf.schema_version.applied_on IS 'When it ran, as text of RFC 3339.';
    COMMENT ON COLUMN sheaf.schema_version.checksum IS 'A hash of its text: a released migration is never edited.';
END
$comments$;
