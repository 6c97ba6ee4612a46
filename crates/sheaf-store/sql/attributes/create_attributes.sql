-- Purpose: attributes that are not there yet, in order of name so that two servers cannot wait for each other.
--   Those that are there stay as they are. Hot ones beyond the tenant's bound are cold; none are made beyond the bound
--   on all. The counts hold because the transaction has locked the tenant's row before, as every other creator does.
--   The catalogue's version moves only where there is a new one: devices that all start to send the same fields
--   would otherwise have every server read the catalogue again for each of their requests.
-- Parameters: tenant_id, names, types, temperatures, origin, created_at, hot_max, attributes_max.
-- Index: attributes_name_key, tenants_pkey. Locks: new rows, the tenant's row.
WITH known AS (
    SELECT count(*) AS attributes, count(*) FILTER (WHERE temperature IN ('hot', 'warming')) AS hot
    FROM sheaf.attributes
    WHERE tenant_id = $1
), missing AS (
    SELECT n.name, n.type, n.temperature,
        row_number() OVER (ORDER BY n.name COLLATE "C") AS place,
        count(*) FILTER (WHERE n.temperature = 'hot') OVER (ORDER BY n.name COLLATE "C") AS hot_place
    FROM unnest($2::text[], $3::text[], $4::text[]) AS n (name, type, temperature)
    WHERE NOT EXISTS (SELECT FROM sheaf.attributes a WHERE a.tenant_id = $1 AND a.name = n.name)
), created AS (
    INSERT INTO sheaf.attributes (tenant_id, name, type, origin, temperature, created_at)
    SELECT $1, m.name, m.type, $5,
        CASE WHEN m.temperature = 'hot' AND k.hot + m.hot_place > $7 THEN 'cold' ELSE m.temperature END, $6
    FROM missing m CROSS JOIN known k
    WHERE k.attributes + m.place <= $8
    ORDER BY m.name COLLATE "C"
    ON CONFLICT (tenant_id, name) DO NOTHING
    RETURNING attribute_id, name, type, origin, unit, description, schema, pii, pin, temperature, value_index, series_tag, created_at,
        retention_micros
), moved AS (
    UPDATE sheaf.tenants SET catalogue_version = catalogue_version + 1
    WHERE tenant_id = $1 AND EXISTS (SELECT FROM created)
    RETURNING catalogue_version
)
SELECT c.attribute_id, c.name, c.type, c.origin, c.unit, c.description, c.schema, c.pii, c.pin, c.temperature,
    c.value_index, c.series_tag, c.created_at, c.retention_micros, m.catalogue_version
FROM created c CROSS JOIN moved m
