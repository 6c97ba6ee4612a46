-- Purpose: for each of some entities and keys, the first value within a range, corrections applied; removals are no values.
--   One text: the instant in microseconds since 1970, a space, the value as JSON; null where there is none.
-- Parameters: tenant_id, entity_ids and keys (as pairs), from (inclusive), to (exclusive).
-- Index: entity_events_pkey, one partition after the other until a value is met. Locks: none.
SELECT n.entity_id, n.key, (
    SELECT (extract(epoch FROM e.observed_at) * 1000000)::bigint || ' ' || (e.attrs -> n.key)::text
    FROM sheaf.entity_events e
    WHERE e.tenant_id = $1 AND e.entity_id = n.entity_id AND e.observed_at >= $4 AND e.observed_at < $5
        AND e.attrs ? n.key AND e.attrs -> n.key <> 'null'
        AND NOT EXISTS (
            SELECT FROM sheaf.entity_events l
            WHERE l.tenant_id = $1 AND l.entity_id = n.entity_id AND l.observed_at = e.observed_at AND l.seq > e.seq
                AND (l.op IN ('r', 'd') OR l.attrs ? n.key))
    ORDER BY e.observed_at, e.seq
    LIMIT 1) AS found
FROM unnest($2::bigint[], $3::text[]) AS n (entity_id, key)
