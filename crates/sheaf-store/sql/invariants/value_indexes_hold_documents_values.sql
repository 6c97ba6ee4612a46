-- Purpose: rows of the value indexes that are not what the document holds, and values that a filled index lacks: a range or an
--   order would answer otherwise than the documents. While an index is emptied its rows mean nothing.
-- Parameters: none. Index: none; reads every row and the documents of tenants that have an index. Locks: none.
WITH held AS MATERIALIZED (
    -- As documents write them; a number as a number, so that 12.5 and 12.50 are one.
    SELECT i.tenant_id, i.attribute_id, i.entity_id, to_jsonb(i.value) AS value FROM sheaf.entity_index_int i
    UNION ALL
    SELECT i.tenant_id, i.attribute_id, i.entity_id, to_jsonb(i.value) FROM sheaf.entity_index_float i
    UNION ALL
    SELECT i.tenant_id, i.attribute_id, i.entity_id, to_jsonb(i.value) FROM sheaf.entity_index_decimal i
    UNION ALL
    SELECT i.tenant_id, i.attribute_id, i.entity_id, to_jsonb(i.value) FROM sheaf.entity_index_text i
    UNION ALL
    SELECT i.tenant_id, i.attribute_id, i.entity_id,
        to_jsonb(to_char(i.value AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')) FROM sheaf.entity_index_time i
), indexed AS MATERIALIZED (
    SELECT a.tenant_id, a.attribute_id, a.type, a.value_index FROM sheaf.attributes a WHERE a.value_index <> 'none'
), meant AS MATERIALIZED (
    SELECT d.tenant_id, a.attribute_id, d.entity_id, a.value_index,
        CASE WHEN a.type = 'text' THEN to_jsonb(left(v.value #>> '{}', 100)) ELSE v.value END AS value
    FROM indexed a
    JOIN sheaf.entity_jsonb d ON d.tenant_id = a.tenant_id
    CROSS JOIN LATERAL (SELECT CASE WHEN k.temperature = 'cooling'
            THEN coalesce(d.cold_attrs -> k.attribute_id::text, d.hot_attrs -> k.attribute_id::text)
            ELSE coalesce(d.hot_attrs -> k.attribute_id::text, d.cold_attrs -> k.attribute_id::text) END AS value
        FROM sheaf.attributes k WHERE k.tenant_id = a.tenant_id AND k.attribute_id = a.attribute_id) v
    WHERE v.value IS NOT NULL
)
SELECT format('tenant %s: the value index of attribute %s holds %s for entity %s, its document %s',
    coalesce(h.tenant_id, m.tenant_id), coalesce(h.attribute_id, m.attribute_id), coalesce(h.value::text, 'nothing'),
    coalesce(h.entity_id, m.entity_id), coalesce(m.value::text, 'nothing'))
FROM held h
FULL JOIN meant m ON m.tenant_id = h.tenant_id AND m.attribute_id = h.attribute_id AND m.entity_id = h.entity_id
LEFT JOIN indexed a ON a.tenant_id = coalesce(h.tenant_id, m.tenant_id) AND a.attribute_id = coalesce(h.attribute_id, m.attribute_id)
WHERE a.value_index IS DISTINCT FROM 'emptying' AND (h.value IS NULL OR m.value IS NULL OR h.value <> m.value)
    AND NOT (h.value IS NULL AND a.value_index = 'filling')
LIMIT 100
