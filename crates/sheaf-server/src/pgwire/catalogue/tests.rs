use sheaf_model::AttributeType;

use super::*;

fn world() -> World {
    let tables = [
        ("lake", "facts"),
        ("lake", "entities"),
        ("current", "plane"),
        ("current", "Jet engine"),
    ]
    .into_iter()
    .map(|(schema, name)| ShownTable {
        schema,
        name: name.to_owned(),
        columns: vec![
            Column::of(
                if name.contains(' ') {
                    "Fan blades"
                } else {
                    "tenant_id"
                },
                AttributeType::Int,
            ),
            Column::of("observed_at", AttributeType::Time),
        ],
    })
    .collect();
    World {
        tenant: "acme".to_owned(),
        settings: vec![
            ("max_index_keys", "32".to_owned()),
            ("timezone", "UTC".to_owned()),
        ],
        tables,
    }
}

/// What a question gives.
fn list(query: &str, params: &[Param]) -> Result<(Vec<Column>, Vec<Vec<Cell>>), Fault> {
    let inquiry = read(query, params)?;
    Ok((inquiry.columns().to_vec(), inquiry.rows(&world())?))
}

/// The answer as lines: the headings, then the rows.
fn listed(query: &str) -> Vec<String> {
    listed_with(query, &[])
}

fn listed_with(query: &str, params: &[Param]) -> Vec<String> {
    let (columns, rows) = list(query, params).expect(query);
    let headings = columns.iter().map(|column| column.name.clone());
    let mut lines = vec![headings.collect::<Vec<_>>().join("|")];
    for row in rows {
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
            "current|plane|table|acme",
            "current|Jet engine|table|acme"
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
    assert_eq!(
        tables,
        [
            "table",
            "facts",
            "entities",
            "current.plane",
            "current.\"Jet engine\""
        ]
    );
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
    let params = [Param::Text("entities".to_owned())];
    assert_eq!(listed_with(sent, &params).len(), 3);
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
        let found = list(query, &[]);
        assert!(found.is_err(), "{query}: {found:?}");
    }
}

/// What Grafana asks in front of its names of tables: whether their schema is one that need not be named.
const ON_PATH: &str = r#"quote_ident(table_schema) IN (
      SELECT CASE WHEN trim(s[i]) = '"$user"' THEN user ELSE trim(s[i]) END
      FROM generate_series(
          array_lower(string_to_array(current_setting('search_path'),','),1),
          array_upper(string_to_array(current_setting('search_path'),','),1)) as i,
        string_to_array(current_setting('search_path'),',') s)"#;

#[test]
fn grafana_lists_schemas_tables_and_the_columns_of_the_table_that_it_was_given() {
    let schemas = listed(
        r#"SELECT schema_name AS "name" FROM information_schema.schemata
           WHERE schema_name NOT IN ('information_schema', 'pg_catalog', 'pg_toast') ORDER BY schema_name"#,
    );
    assert_eq!(schemas, ["name", "public", "current"]);
    let tables = format!(
        r#"SELECT CASE WHEN {ON_PATH} THEN quote_ident(table_name)
             ELSE quote_ident(table_schema) || '.' || quote_ident(table_name) END AS "table"
           FROM information_schema.tables WHERE quote_ident(table_schema) NOT IN ('information_schema', 'pg_catalog')
           ORDER BY CASE WHEN {ON_PATH} THEN 0 ELSE 1 END, 1"#
    );
    let mut tables = listed(&tables);
    assert_eq!(
        tables,
        [
            "table",
            "facts",
            "entities",
            "current.plane",
            "current.\"Jet engine\""
        ]
    );
    for table in tables.split_off(1) {
        let query = format!(
            r#"SELECT quote_ident(column_name) AS "column", data_type AS "type" FROM information_schema.columns
               WHERE CASE WHEN array_length(parse_ident('{table}'),1) = 2
                 THEN quote_ident(table_schema) = (parse_ident('{table}'))[1]
                   AND quote_ident(table_name) = (parse_ident('{table}'))[2]
                 ELSE quote_ident(table_name) = '{table}' AND {ON_PATH} END"#
        );
        let name = match table.as_str() {
            "current.\"Jet engine\"" => "\"Fan blades\"|bigint",
            _ => "tenant_id|bigint",
        };
        assert_eq!(
            listed(&query),
            ["column|type", name, "observed_at|timestamp with time zone"],
            "{table}"
        );
    }
    assert_eq!(
        listed(
            r#"SELECT quote_ident(table_name) AS "table" FROM information_schema.tables WHERE quote_ident(table_schema) = 'current' ORDER BY 1"#
        ),
        ["table", "plane", "\"Jet engine\""]
    );
}

#[test]
fn drivers_of_java_find_no_keys_and_the_types_that_they_do_not_know() {
    let keys = listed(
        "SELECT result.TABLE_CAT, result.TABLE_SCHEM, result.TABLE_NAME, result.COLUMN_NAME, result.KEY_SEQ, result.PK_NAME
         FROM (SELECT NULL AS TABLE_CAT, n.nspname AS TABLE_SCHEM, ct.relname AS TABLE_NAME, a.attname AS COLUMN_NAME,
             (information_schema._pg_expandarray(i.indkey)).n AS KEY_SEQ, ci.relname AS PK_NAME,
             information_schema._pg_expandarray(i.indkey) AS KEYS, a.attnum AS A_ATTNUM
           FROM pg_catalog.pg_class ct JOIN pg_catalog.pg_attribute a ON (ct.oid = a.attrelid)
             JOIN pg_catalog.pg_namespace n ON (ct.relnamespace = n.oid) JOIN pg_catalog.pg_index i ON ( a.attrelid = i.indrelid)
             JOIN pg_catalog.pg_class ci ON (ci.oid = i.indexrelid)
           WHERE true AND n.nspname = 'public' AND ct.relname = 'facts' AND i.indisprimary ) result
         where result.A_ATTNUM = (result.KEYS).x ORDER BY result.table_name, result.pk_name, result.key_seq",
    );
    assert_eq!(
        keys,
        ["table_cat|table_schem|table_name|column_name|key_seq|pk_name"]
    );
    let imported = listed(
        "SELECT NULL::text AS PKTABLE_CAT, pkn.nspname AS PKTABLE_SCHEM, pos.n AS KEY_SEQ,
           CASE con.confupdtype WHEN 'c' THEN 0 WHEN 'n' THEN 2 ELSE NULL END AS UPDATE_RULE, con.conname AS FK_NAME
         FROM pg_catalog.pg_namespace pkn, pg_catalog.pg_class pkc, pg_catalog.pg_attribute pka, pg_catalog.pg_constraint con,
           pg_catalog.generate_series(1, 32) pos(n), pg_catalog.pg_class pkic
         WHERE pkn.oid = pkc.relnamespace AND pka.attnum = con.confkey[pos.n] AND con.contype = 'f'
           AND (pkic.relkind = 'i' OR pkic.relkind = 'I') AND pkic.oid = con.conindid AND fkc.relname = 'facts'
         ORDER BY pkn.nspname,pkc.relname, con.conname,pos.n",
    );
    assert_eq!(
        imported,
        ["pktable_cat|pktable_schem|key_seq|update_rule|fk_name"]
    );
    let indexes = listed(
        r#"SELECT tmp.TABLE_NAME, tmp.NON_UNIQUE, tmp.ORDINAL_POSITION,
             trim(both '"' from pg_catalog.pg_get_indexdef(tmp.CI_OID, tmp.ORDINAL_POSITION, false)) AS COLUMN_NAME
           FROM (SELECT ct.relname AS TABLE_NAME, NOT i.indisunique AS NON_UNIQUE, ci.oid AS CI_OID,
               (information_schema._pg_expandarray(i.indkey)).n AS ORDINAL_POSITION
             FROM pg_catalog.pg_class ct JOIN pg_catalog.pg_index i ON (ct.oid = i.indrelid)
               JOIN pg_catalog.pg_class ci ON (ci.oid = i.indexrelid) JOIN pg_catalog.pg_am am ON (ci.relam = am.oid)
             WHERE true AND ct.relname = 'facts') AS tmp ORDER BY NON_UNIQUE, ORDINAL_POSITION"#,
    );
    assert_eq!(indexes.len(), 1, "{indexes:?}");
    let best = listed(
        "SELECT a.attname, a.atttypid, atttypmod FROM pg_catalog.pg_class ct JOIN pg_catalog.pg_attribute a ON (ct.oid = a.attrelid)
           JOIN (SELECT i.indexrelid, i.indrelid, i.indisprimary, information_schema._pg_expandarray(i.indkey) AS keys
             FROM pg_catalog.pg_index i) i ON (a.attnum = (i.keys).x AND a.attrelid = i.indrelid)
         WHERE true AND ct.relname = 'facts' AND i.indisprimary ORDER BY a.attnum",
    );
    assert_eq!(best, ["attname|atttypid|atttypmod"]);
    assert_eq!(
        listed("SELECT setting FROM pg_catalog.pg_settings WHERE name='max_index_keys'"),
        ["setting", "32"]
    );
    assert_eq!(
        listed(
            "SELECT t.typlen FROM pg_catalog.pg_type t, pg_catalog.pg_namespace n
             WHERE t.typnamespace=n.oid AND t.typname='name' AND n.nspname='pg_catalog'"
        ),
        ["typlen", "64"]
    );
    assert_eq!(
        listed(
            "SELECT datname AS TABLE_CAT FROM pg_catalog.pg_database WHERE datallowconn = true ORDER BY datname"
        ),
        ["table_cat", "sheaf"]
    );
    let types = "SELECT t.typname,t.oid FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON (t.typnamespace = n.oid)
         WHERE n.nspname != 'pg_toast'
           AND (t.typrelid = 0 OR (SELECT c.relkind = 'c' FROM pg_catalog.pg_class c WHERE c.oid = t.typrelid))";
    assert!(listed(types).contains(&"jsonb|3802".to_owned()));
    // The element of a type that has none, and the array of one that is in no column.
    let jsonb = "SELECT t.oid, n.nspname = ANY(current_schemas(true)), n.nspname, t.typinput = 'array_in'::regproc, t.typname,
           t.typelem, t.typtype, t.typdelim, e.typname, e.typtype, e.typdelim, arr.oid, arr.typname
         FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON t.typnamespace = n.oid
           LEFT JOIN pg_catalog.pg_type e ON t.typelem = e.oid
           LEFT JOIN pg_catalog.pg_type arr ON (arr.typelem, arr.typinput) = (t.oid, 'array_in'::regproc)
         WHERE t.oid = $1";
    let jsonb = listed_with(jsonb, &[Param::Number("3802".to_owned())]);
    assert_eq!(jsonb[1..], ["3802|true|pg_catalog|-|jsonb|0|b|,|-|-|-|-|-"]);
    let by_oid = "SELECT n.nspname = ANY(current_schemas(true)), n.nspname, t.typname
         FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON t.typnamespace = n.oid WHERE t.oid = $1";
    let by_oid = listed_with(by_oid, &[Param::Number("1184".to_owned())]);
    assert_eq!(by_oid[1..], ["true|pg_catalog|timestamptz"]);
    let kind = "SELECT typinput='pg_catalog.array_in'::regproc as is_array, typtype, typname, pg_type.oid
         FROM pg_catalog.pg_type LEFT JOIN (select ns.oid as nspoid, ns.nspname, r.r from pg_namespace as ns
           join ( select s.r, (current_schemas(false))[s.r] as nspname
             from generate_series(1, array_upper(current_schemas(false), 1)) as s(r) ) as r using ( nspname )) as sp
           ON sp.nspoid = typnamespace WHERE typname = $1 ORDER BY sp.r, pg_type.oid DESC";
    let kind = listed_with(kind, &[Param::Text("jsonb".to_owned())]);
    assert_eq!(kind, ["is_array|typtype|typname|oid", "-|b|jsonb|3802"]);
}

#[test]
fn metabase_lists_what_it_may_read_and_the_fields_of_it() {
    let tables = r#"SELECT "n"."nspname" AS "schema", "c"."relname" AS "name",
           CASE "c"."relkind" WHEN 'r' THEN 'TABLE' WHEN 'v' THEN 'VIEW' ELSE NULL END AS "type",
           "d"."description" AS "description", "stat"."n_live_tup" AS "estimated_row_count"
         FROM "pg_catalog"."pg_class" AS "c" INNER JOIN "pg_catalog"."pg_namespace" AS "n" ON "c"."relnamespace" = "n"."oid"
           LEFT JOIN "pg_catalog"."pg_description" AS "d" ON ("c"."oid" = "d"."objoid") AND ("d"."objsubid" = 0)
           LEFT JOIN "pg_stat_user_tables" AS "stat" ON ("n"."nspname" = "stat"."schemaname") AND ("c"."relname" = "stat"."relname")
         WHERE ("c"."relnamespace" = "n"."oid") AND ("n"."nspname" !~ $1) AND ("n"."nspname" <> $2)
           AND (c.relkind in ('r', 'p', 'v', 'f', 'm')) AND ("n"."nspname" IN ($3)) ORDER BY "type" ASC, "schema" ASC, "name" ASC"#;
    let params = ["^pg_", "information_schema", "current"];
    let params = params.map(|text| Param::Text(text.to_owned()));
    assert_eq!(
        listed_with(tables, &params),
        [
            "schema|name|type|description|estimated_row_count",
            "current|plane|table|-|-",
            "current|Jet engine|table|-|-"
        ]
    );
    let fields = r#"SELECT "c"."column_name" AS "name",
           CASE WHEN "c"."udt_schema" IN ('public', 'pg_catalog') THEN FORMAT('%s', "c"."udt_name")
             ELSE FORMAT('"%s"."%s"', "c"."udt_schema", "c"."udt_name") END AS "database-type",
           "c"."ordinal_position" - 1 AS "database-position", "c"."table_schema" AS "table-schema", "c"."table_name" AS "table-name",
           "pk"."column_name" IS NOT NULL AS "pk?",
           COL_DESCRIPTION(CAST(CAST(FORMAT('%I.%I', CAST("c"."table_schema" AS text), CAST("c"."table_name" AS text)) AS regclass)
             AS oid), "c"."ordinal_position") AS "field-comment",
           (("column_default" IS NULL) OR (LOWER("column_default") = 'null')) AND ("is_nullable" = 'NO') AS "database-required",
           (("column_default" IS NOT NULL) AND ("column_default" LIKE '%nextval(%')) OR ("is_identity" <> 'NO')
             AS "database-is-auto-increment"
         FROM "information_schema"."columns" AS "c"
           LEFT JOIN (SELECT "tc"."table_schema", "tc"."table_name", "kc"."column_name"
             FROM "information_schema"."table_constraints" AS "tc" INNER JOIN "information_schema"."key_column_usage" AS "kc"
               ON ("tc"."constraint_name" = "kc"."constraint_name") WHERE "tc"."constraint_type" = 'PRIMARY KEY') AS "pk"
             ON ("c"."table_schema" = "pk"."table_schema") AND ("c"."column_name" = "pk"."column_name")
         WHERE (c.table_schema !~ '^information_schema|catalog_history|pg_') AND ("c"."table_schema" IN ($1)) AND ("c"."table_name" IN ($2))
         UNION ALL SELECT "pa"."attname" AS "name", FORMAT('%s', "pt"."typname") AS "database-type"
         FROM "pg_catalog"."pg_class" AS "pc" INNER JOIN "pg_catalog"."pg_attribute" AS "pa" ON "pa"."attrelid" = "pc"."oid"
         WHERE ("pc"."relkind" = 'm') AND ("pa"."attnum" >= 1) ORDER BY "table-schema" ASC, "table-name" ASC"#;
    let params = ["public", "facts"].map(|text| Param::Text(text.to_owned()));
    assert_eq!(
        listed_with(fields, &params),
        [
            "name|database-type|database-position|table-schema|table-name|pk?|field-comment|database-required|database-is-auto-increment",
            "tenant_id|int8|0|public|facts|false|-|false|false",
            "observed_at|timestamptz|1|public|facts|false|-|false|false"
        ]
    );
    let privileges = r#"with table_privileges as (
         select NULL as role, t.schemaname as schema, t.objectname as table,
           pg_catalog.has_any_column_privilege(current_user, '"' || replace(t.schemaname, '"', '""') || '"',  'update') as update,
           pg_catalog.has_any_column_privilege(current_user, '"' || replace(t.schemaname, '"', '""') || '"',  'select') as select,
           pg_catalog.has_any_column_privilege(current_user, '"' || replace(t.schemaname, '"', '""') || '"',  'insert') as insert,
           pg_catalog.has_table_privilege(     current_user, '"' || replace(t.schemaname, '"', '""') || '"',  'delete') as delete
         from ( select schemaname, tablename as objectname from pg_catalog.pg_tables
           union select schemaname, viewname as objectname from pg_catalog.pg_views
           union select schemaname, matviewname as objectname from pg_catalog.pg_matviews ) t
         where t.schemaname !~ '^pg_' and t.schemaname <> 'information_schema'
           and pg_catalog.has_schema_privilege(current_user, t.schemaname, 'usage'))
       select t.* from table_privileges t"#;
    assert_eq!(
        listed(privileges)[..2],
        [
            "role|schema|table|update|select|insert|delete",
            "-|public|facts|false|true|false|false"
        ]
    );
    let enums =
        "SELECT nspname, typname FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
         WHERE t.oid IN (SELECT DISTINCT enumtypid FROM pg_enum e)";
    assert_eq!(listed(enums), ["nspname|typname"]);
    let foreign = r#"SELECT "fk_ns"."nspname" AS "fk-table-schema", "pk_column"."attname" AS "pk-column-name" FROM "pg_constraint" AS "c"
         INNER JOIN "pg_class" AS "fk_table" ON "c"."conrelid" = "fk_table"."oid"
         INNER JOIN "pg_namespace" AS "fk_ns" ON "c"."connamespace" = "fk_ns"."oid"
         WHERE (fk_ns.nspname !~ '^pg_') AND ("c"."contype" = 'f'::char) AND ("fk_column"."attnum" = ANY(c.conkey))"#;
    assert_eq!(listed(foreign), ["fk-table-schema|pk-column-name"]);
}

#[test]
fn no_question_is_long_enough_to_take_more_than_its_share() {
    let limited = |query: &str| {
        let found = list(query, &[]);
        let fault = found.expect_err(query.get(..80).unwrap_or(query));
        assert!(
            [PROGRAM_LIMIT, FEATURE_NOT_SUPPORTED].contains(&fault.sqlstate),
            "{fault:?}"
        );
        fault.sqlstate == PROGRAM_LIMIT
    };
    let names = "information_schema.columns";
    assert!(limited(&format!(
        "SELECT {} FROM {names}",
        "1,".repeat(60_000)
    )));
    let conditions = "table_name = 'x' OR ".repeat(500);
    assert!(limited(&format!(
        "SELECT 1 FROM {names} WHERE {conditions} true"
    )));
    let like = "%a".repeat(300);
    assert!(limited(&format!(
        "SELECT 1 FROM {names} WHERE table_name LIKE '{like}'"
    )));
    // What is read again for each that it is in.
    for (open, close) in [
        ("SELECT * FROM (", ")"),
        ("(", ")"),
        ("SELECT 1 FROM pg_class WHERE a IN (", ")"),
        ("SELECT 1 FROM pg_class WHERE a IN (", ""),
        ("SELECT (", ")"),
    ] {
        for count in [10, 400] {
            let query = format!(
                "{}SELECT 1 FROM pg_class{}",
                open.repeat(count),
                close.repeat(count)
            );
            let _ = list(&query, &[]);
        }
    }
    // A list that would be too long is not made.
    let long = format!("SELECT {} FROM {names}", ["'x'"; 1_500].join(","));
    let world = World {
        tables: (0..2_000).flat_map(|_| world().tables).collect(),
        ..world()
    };
    let said = [Param::Text("x".repeat(10_000))];
    for (query, params) in [
        (long.as_str(), &[][..]),
        ("SELECT $1, $1 FROM pg_type", &said),
    ] {
        let inquiry = read(query, params).expect("a question");
        let fault = inquiry.rows(&world).expect_err("too long");
        assert_eq!(fault.sqlstate, PROGRAM_LIMIT);
    }
}
