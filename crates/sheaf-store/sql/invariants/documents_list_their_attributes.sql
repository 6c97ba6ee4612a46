-- Purpose: documents whose list of present attributes is not, in ascending order, the keys of the two parts; also where
--   a key is in both.
-- Parameters: none. Index: none; reads every document. Locks: none.
SELECT format('tenant %s: document of entity %s lists attributes %s', d.tenant_id, d.entity_id, d.present)
FROM sheaf.entity_jsonb d
WHERE d.present::text[] <> ARRAY(
    SELECT p.key FROM (SELECT jsonb_object_keys(d.hot_attrs) UNION ALL SELECT jsonb_object_keys(d.cold_attrs)) AS p (key)
    -- Numbers without leading zeros: a shorter one is a smaller one.
    ORDER BY length(p.key), p.key COLLATE "C")
LIMIT 100
