-- Purpose: whether the publication of changes is there, and what of it is not as the change stream needs it: the same as
--   ensure_change_publication() mends, in words, and changing nothing.
-- Parameters: none. Index: pg_publication_pubname_index. Locks: none.
WITH there AS (
    SELECT p.* FROM pg_catalog.pg_publication p WHERE p.pubname = 'sheaf_events'
), wanted AS (
    SELECT unnest(ARRAY['sheaf.attributes', 'sheaf.entities', 'sheaf.entity_events', 'sheaf.entity_events_late',
        'sheaf.entity_keyframes', 'sheaf.replication_heartbeat', 'sheaf.tenants']::regclass[])::oid AS relation
), published AS (
    SELECT r.prrelid AS relation, r.prqual IS NOT NULL OR r.prattrs IS NOT NULL AS is_partial
    FROM there t JOIN pg_catalog.pg_publication_rel r ON r.prpubid = t.oid
), faults (fault) AS (
    SELECT 'every table is published' FROM there WHERE puballtables
    UNION ALL SELECT 'inserts are not published' FROM there WHERE NOT pubinsert
    UNION ALL SELECT 'updates are not published' FROM there WHERE NOT pubupdate
    UNION ALL SELECT 'deletes are published' FROM there WHERE pubdelete
    UNION ALL SELECT 'truncates are published' FROM there WHERE pubtruncate
    UNION ALL SELECT 'partitions are published by themselves' FROM there WHERE NOT pubviaroot
    UNION ALL SELECT relation::regclass || ' is not published' FROM wanted
        WHERE EXISTS (SELECT FROM there) AND relation NOT IN (SELECT relation FROM published)
    UNION ALL SELECT relation::regclass || ' is published' FROM published WHERE relation NOT IN (SELECT relation FROM wanted)
    UNION ALL SELECT relation::regclass || ' is published in part' FROM published WHERE is_partial
    UNION ALL SELECT 'schema ' || n.pnnspid::regnamespace || ' is published'
        FROM there t JOIN pg_catalog.pg_publication_namespace n ON n.pnpubid = t.oid
)
SELECT EXISTS (SELECT FROM there) AS is_there, ARRAY(SELECT fault FROM faults ORDER BY fault LIMIT 20) AS faults
