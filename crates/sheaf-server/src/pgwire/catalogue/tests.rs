use super::*;

fn relations() -> Vec<ShownTable> {
    [
        ("lake", "facts"),
        ("lake", "entities"),
        ("current", "plane"),
    ]
    .into_iter()
    .map(|(schema, name)| ShownTable {
        schema,
        name: name.to_owned(),
        columns: vec![
            Column::of("tenant_id", AttributeType::Int),
            Column::of("observed_at", AttributeType::Time),
        ],
    })
    .collect()
}

/// The answer as lines: the headings, then the rows.
fn listed(query: &str) -> Vec<String> {
    let found = list(query, &[], &relations(), "acme").expect(query);
    let headings = found.columns.iter().map(|column| column.name.clone());
    let mut lines = vec![headings.collect::<Vec<_>>().join("|")];
    for row in found.rows {
        let cells = row.iter().map(|cell| match cell {
            Cell::Absent => "-".to_owned(),
            Cell::Digits(digits) => digits.clone(),
            Cell::Value(Value::Text(text)) => text.clone(),
            Cell::Value(value) => serde_json::to_string(value).expect("JSON"),
        });
        lines.push(cells.collect::<Vec<_>>().join("|"));
    }
    lines
}

#[test]
fn psql_lists_tables_and_describes_one() {
    let tables = listed(
        r#"SELECT n.nspname as "Schema", c.relname as "Name",
            CASE c.relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' END as "Type",
            pg_catalog.pg_get_userbyid(c.relowner) as "Owner"
          FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam
          WHERE c.relkind IN ('r','p','') AND n.nspname <> 'pg_catalog' AND n.nspname !~ '^pg_toast'
            AND pg_catalog.pg_table_is_visible(c.oid) ORDER BY 1,2;"#,
    );
    assert_eq!(
        tables,
        [
            "Schema|Name|Type|Owner",
            "public|facts|table|acme",
            "public|entities|table|acme",
            "current|plane|table|acme"
        ]
    );
    let found = listed(
        "SELECT c.oid, n.nspname, c.relname FROM pg_catalog.pg_class c
         LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relname OPERATOR(pg_catalog.~) '^(entities)$' COLLATE pg_catalog.default
           AND pg_catalog.pg_table_is_visible(c.oid) ORDER BY 2, 3;",
    );
    assert_eq!(found, ["oid|nspname|relname", "16385|public|entities"]);
    let columns = listed(
        "SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod),
           (SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid, true) FROM pg_catalog.pg_attrdef d WHERE d.adnum = a.attnum),
           a.attnotnull, (SELECT c.collname FROM pg_catalog.pg_collation c) AS attcollation, a.attidentity
         FROM pg_catalog.pg_attribute a
         WHERE a.attrelid = '16385' AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum;",
    );
    assert_eq!(
        columns[1..],
        [
            "tenant_id|bigint|-|false|-|",
            "observed_at|timestamp with time zone|-|false|-|"
        ]
    );
    let indexes = listed(
        "SELECT c2.relname, i.indisprimary FROM pg_catalog.pg_class c, pg_catalog.pg_class c2, pg_catalog.pg_index i
         WHERE c.oid = '16385' AND c.oid = i.indrelid",
    );
    assert_eq!(indexes, ["relname|indisprimary"]);
}

#[test]
fn drivers_of_java_list_tables_columns_and_schemas() {
    let tables = listed(
        "SELECT NULL AS TABLE_CAT, n.nspname AS TABLE_SCHEM, c.relname AS TABLE_NAME,
           CASE n.nspname ~ '^pg_' OR n.nspname = 'information_schema' WHEN true THEN 'SYSTEM TABLE' ELSE 'TABLE' END AS TABLE_TYPE,
           d.description AS REMARKS, '' as TYPE_CAT
         FROM pg_catalog.pg_namespace n, pg_catalog.pg_class c
           LEFT JOIN pg_catalog.pg_description d ON (c.oid = d.objoid AND d.objsubid = 0 and d.classoid = 'pg_class'::regclass)
         WHERE c.relnamespace = n.oid AND n.nspname LIKE 'public' AND c.relname LIKE 'fact_'
           AND (false OR ( c.relkind = 'r' AND n.nspname !~ '^pg_' ) OR ( c.relkind = 'v' AND n.nspname <> 'pg_catalog' ))
         ORDER BY TABLE_TYPE,TABLE_SCHEM,TABLE_NAME",
    );
    assert_eq!(
        tables,
        [
            "table_cat|table_schem|table_name|table_type|remarks|type_cat",
            "-|public|facts|TABLE|-|"
        ]
    );
    let columns = listed(
        "SELECT * FROM (SELECT n.nspname,c.relname,a.attname,a.atttypid,
           a.attnotnull OR (t.typtype = 'd' AND t.typnotnull) AS attnotnull,
           row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum) AS attnum, t.typtype
         FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_class c ON (c.relnamespace = n.oid)
           JOIN pg_catalog.pg_attribute a ON (a.attrelid=c.oid) JOIN pg_catalog.pg_type t ON (a.atttypid = t.oid)
           LEFT JOIN pg_catalog.pg_class dc ON (dc.oid=a.attrelid AND dc.relname='pg_class')
         WHERE c.relkind in ('r','p','v','f','m') and a.attnum > 0 AND NOT a.attisdropped AND c.relname LIKE 'facts') c
         WHERE true AND attname LIKE 'obs%' ORDER BY nspname,c.relname,attnum",
    );
    assert_eq!(
        columns,
        [
            "nspname|relname|attname|atttypid|attnotnull|attnum|typtype",
            "public|facts|observed_at|1184|false|2|b"
        ]
    );
    let schemas = listed(
        "SELECT nspname AS TABLE_SCHEM, NULL AS TABLE_CATALOG FROM pg_catalog.pg_namespace
         WHERE nspname <> 'pg_toast' AND (nspname !~ '^pg_temp_' OR nspname = (pg_catalog.current_schemas(true))[1])",
    );
    assert_eq!(
        schemas,
        ["table_schem|table_catalog", "public|-", "current|-"]
    );
}

#[test]
fn dashboards_list_tables_and_the_columns_of_one() {
    let tables = listed(
        r#"SELECT CASE WHEN quote_ident(table_schema) IN (SELECT user) THEN quote_ident(table_name)
             ELSE quote_ident(table_schema) || '.' || quote_ident(table_name) END AS "table"
           FROM information_schema.tables WHERE quote_ident(table_schema) NOT IN ('information_schema', 'pg_catalog')"#,
    );
    assert_eq!(tables, ["table", "facts", "entities", "current.plane"]);
    let columns = listed(
        r#"SELECT quote_ident(column_name) AS "column", data_type AS "type" FROM information_schema.columns
           WHERE CASE WHEN array_length(parse_ident('facts'),1) = 2 THEN quote_ident(table_name) = (parse_ident('facts'))[2]
             ELSE quote_ident(table_name) = 'facts' END"#,
    );
    assert_eq!(
        columns,
        [
            "column|type",
            "tenant_id|bigint",
            "observed_at|timestamp with time zone"
        ]
    );
    assert_eq!(
        listed("SELECT DISTINCT table_schema FROM information_schema.tables"),
        ["table_schema", "public", "current"]
    );
    assert_eq!(
        listed("select extversion from pg_extension where extname = 'timescaledb'"),
        ["extversion"]
    );
    assert_eq!(
        listed("SELECT * FROM information_schema.tables LIMIT 1"),
        [
            "table_catalog|table_schema|table_name|table_type",
            "sheaf|public|facts|BASE TABLE"
        ]
    );
    let sent = "SELECT column_name FROM information_schema.columns WHERE table_name = $1";
    let params = [Some("entities".to_owned())];
    let found = list(sent, &params, &relations(), "acme").expect("columns");
    assert_eq!(found.rows.len(), 2);
}

#[test]
fn what_would_need_computing_and_what_is_not_known_is_refused() {
    for query in [
        "SELECT * FROM pg_stat_activity",
        "SELECT * FROM pg_class",
        "SELECT c.* FROM pg_class c",
        "SELECT * FROM pg_authid",
        "SELECT pid FROM pg_stat_activity",
        "SELECT count(*) FROM information_schema.tables",
        "SELECT table_name, max(1) FROM information_schema.tables GROUP BY 1",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT relname FROM pg_class JOIN facts ON true",
        "SELECT relname FROM (SELECT 1) x, pg_class",
        "WITH x AS (SELECT 1) SELECT * FROM pg_class",
        "DELETE FROM pg_class",
        "SELECT relname FROM ((((",
        "SELECT ))) FROM pg_class",
    ] {
        let found = list(query, &[], &relations(), "acme");
        assert!(found.is_err(), "{query}: {found:?}");
    }
}
