-- What it takes to try a refused event again: how it was to be read, and where the rest of it is. And a mark of the
-- attributes that lines of line protocol carry as tags beside an id, so that a line which lacks one of them is seen to
-- belong to another series.
-- Locks: ACCESS EXCLUSIVE on rejections and attributes until the commit, a moment: nullable columns and a constant
-- default rewrite nothing, and the checks are not asked of rows that are there, which have none of it.
-- Runs beside servers of the versions before: they leave the new columns alone. What they refuse meanwhile has no
-- format, and is replayed only if it is plainly JSON; tags that they store count once a line names them here.

ALTER TABLE sheaf.rejections ADD COLUMN format text;
ALTER TABLE sheaf.rejections ADD COLUMN precision text;
ALTER TABLE sheaf.rejections ADD COLUMN id_tags jsonb;
ALTER TABLE sheaf.rejections ADD COLUMN external_id text COLLATE "C";
ALTER TABLE sheaf.rejections ADD COLUMN observed_at timestamptz;
ALTER TABLE sheaf.rejections ADD CONSTRAINT rejections_format
    CHECK (format IN ('json', 'line_protocol')) NOT VALID;
ALTER TABLE sheaf.rejections ADD CONSTRAINT rejections_precision
    CHECK ((precision IS NOT NULL) = (coalesce(format, '') = 'line_protocol')
        AND (precision IS NULL OR precision IN ('ns', 'us', 'ms', 's', 'm', 'h'))) NOT VALID;
ALTER TABLE sheaf.rejections ADD CONSTRAINT rejections_id_tags
    CHECK (id_tags IS NULL OR coalesce(format, '') = 'line_protocol') NOT VALID;
COMMENT ON COLUMN sheaf.rejections.format IS 'How the event was to be read: json or line_protocol; null where a server before this column refused it.';
COMMENT ON COLUMN sheaf.rejections.precision IS 'The unit of the timestamp of a line.';
COMMENT ON COLUMN sheaf.rejections.id_tags IS 'The tags that make the id of a line''s entity, where the request named them; null where the tenant''s rules decide.';
COMMENT ON COLUMN sheaf.rejections.external_id IS 'The id of the entity that holds the rest of the event; null where nothing of it is stored.';
COMMENT ON COLUMN sheaf.rejections.observed_at IS 'The instant at which the rest of the event is stored; null where nothing of it is.';
GRANT UPDATE (external_id, observed_at) ON sheaf.rejections TO sheaf_app;

ALTER TABLE sheaf.attributes ADD COLUMN series_tag boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN sheaf.attributes.series_tag IS 'Whether a line of line protocol has carried it as a tag beside the tags that make its entity''s id.';
GRANT UPDATE (series_tag) ON sheaf.attributes TO sheaf_app;
