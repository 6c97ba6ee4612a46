-- The heartbeat: a row that is written again and again, so that what a replica shows of it says how old the replica is, and
-- on which timeline.
-- Why: a replica whose receiver stands still has replayed all that it received, and a time of the last replayed commit grows
--   old on an idle primary too. What arrived of a beat is neither.
-- Locks: none on what exists. Runs beside servers of the versions before, which do not beat.

CREATE TABLE sheaf.replication_heartbeat (
    only_row boolean PRIMARY KEY DEFAULT true,
    beat_at timestamptz,
    timeline bigint,
    CONSTRAINT replication_heartbeat_only_row CHECK (only_row),
    CONSTRAINT replication_heartbeat_whole CHECK ((beat_at IS NULL) = (timeline IS NULL))
);
COMMENT ON TABLE sheaf.replication_heartbeat IS 'When the primary last beat, as far as whoever reads it has come: one row, written about four times a second while a server runs.';
COMMENT ON COLUMN sheaf.replication_heartbeat.only_row IS 'Always true: there is one row.';
COMMENT ON COLUMN sheaf.replication_heartbeat.beat_at IS 'The primary''s clock at the last beat: all that was committed before is there where this is. Null until the first beat.';
COMMENT ON COLUMN sheaf.replication_heartbeat.timeline IS 'The timeline that the primary was on at the last beat. Null until the first beat.';
INSERT INTO sheaf.replication_heartbeat DEFAULT VALUES;

GRANT SELECT ON sheaf.replication_heartbeat TO sheaf_app, sheaf_search;
