//! The few of PostgreSQL's catalogues that clients ask for lists of tables and columns, answered for the lake's tables.
//!
//! This is no engine: it knows what a row of a table, a column, a schema and a type holds, and gives of it what a question names.
//! What has no value here is null. Conditions are looked at where they say which tables, columns or schemas are meant; a question
//! that names a catalogue that is not known here, counts or joins its rows to anything that would need computing is refused. Which
//! tables there are, the lake's reader says, of the tenant that asks.

use sheaf_export::{Cell, Column, ColumnKind};
use sheaf_lake::analytics::ShownTable;
use sheaf_model::{AttributeType, Value};

use super::command::SCHEMA;
use super::fault::{FEATURE_NOT_SUPPORTED, Fault};
use super::lexer::{Token, lex};
use super::value::{BOOL, FLOAT8, INT8, JSONB, NUMERIC, TEXT, TIMESTAMPTZ, name_of, oid_of};

mod selection;

use selection::{Item, Pattern, Selection, read_selection};

/// The number of the first table; what is below is PostgreSQL's own.
const FIRST_TABLE: i64 = 16_384;
/// The number of the schema of the lake's own tables, and of that of others.
const SCHEMA_NUMBER: i64 = 2_200;
const OTHER_SCHEMA_NUMBER: i64 = 2_201;
/// What the lake calls the schema of its own tables, which is not named in a question.
const OWN_SCHEMA: &str = "lake";
/// What the database is called, whatever name was connected to.
pub(super) const DATABASE: &str = "sheaf";

/// Catalogues that have rows, and of what.
const OF_COLUMNS: &[&str] = &["pg_attribute", "columns"];
const OF_TABLES: &[&str] = &["pg_class", "pg_tables", "tables"];
const OF_SCHEMAS: &[&str] = &["pg_namespace", "schemata"];
const OF_TYPES: &[&str] = &["pg_type"];
const OF_DATABASES: &[&str] = &["pg_database"];
const OF_USERS: &[&str] = &["pg_roles", "pg_user"];
/// Catalogues of what there is none of.
#[rustfmt::skip]
const OF_NOTHING: &[&str] = &[
    "pg_index", "pg_constraint", "pg_inherits", "pg_policy", "pg_publication", "pg_publication_rel", "pg_publication_namespace",
    "pg_statistic_ext", "pg_trigger", "pg_rewrite", "pg_extension", "pg_description", "pg_proc", "pg_foreign_table",
    "pg_foreign_server", "pg_partitioned_table", "pg_matviews", "pg_views", "pg_indexes", "pg_attrdef", "pg_enum", "pg_sequence",
    "pg_depend", "pg_collation", "pg_am", "pg_tablespace", "pg_subscription", "pg_event_trigger", "pg_stat_user_tables", "views", "table_constraints",
    "key_column_usage", "constraint_column_usage", "referential_constraints", "routines", "sequences", "triggers",
];

/// What a question about catalogues gives.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Listing {
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Vec<Cell>>,
}

/// What the rows of a question are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Nothing,
    Columns,
    Tables,
    Schemas,
    Types,
    Databases,
    Users,
}

/// One of them.
#[derive(Clone, Copy)]
struct Row<'a> {
    tenant: &'a str,
    /// The schema of a table, or a schema.
    schema: &'a str,
    table: Option<(i64, &'a ShownTable)>,
    column: Option<(i64, &'a Column)>,
    kind: Option<ColumnKind>,
}

/// Answers a question about catalogues.
pub(super) fn list(
    text: &str,
    params: &[Option<String>],
    relations: &[ShownTable],
    tenant: &str,
) -> Result<Listing, Fault> {
    let tokens = lex(text).into_iter().map(|lexeme| match lexeme.token {
        Token::Param(number) => {
            let value = number.checked_sub(1).and_then(|place| params.get(place));
            Token::Text(value.cloned().flatten().unwrap_or_default())
        }
        token => token,
    });
    let tokens: Vec<Token> = tokens.collect();
    let mut selection = read_selection(&tokens).ok_or_else(unserved)?;
    let subject = subject(&selection)?;
    if selection.items == [Item::All] {
        selection.items = all_of(&selection.joined)?;
    }
    if selection.items.iter().any(Item::is_computed) {
        return Err(unserved());
    }
    let columns = selection.items.iter().map(|item| Column {
        name: item.heading(),
        kind: ColumnKind::Of(kind_of(item)),
    });
    let columns: Vec<Column> = columns.collect();
    let mut rows: Vec<Vec<Cell>> = rows(subject, relations, tenant)
        .iter()
        .filter(|row| is_meant(row, &selection.patterns))
        .map(|row| {
            let cells = selection.items.iter().zip(&columns);
            let cells = cells.map(|(item, column)| fitted(value(item, row), column));
            cells.collect()
        })
        .collect();
    if selection.is_distinct {
        let mut seen: Vec<Vec<Cell>> = Vec::new();
        rows.retain(|row| {
            let is_new = !seen.contains(row);
            if is_new {
                seen.push(row.clone());
            }
            is_new
        });
    }
    rows.truncate(selection.limit.unwrap_or(usize::MAX));
    Ok(Listing { columns, rows })
}

fn unserved() -> Fault {
    let message = "of PostgreSQL's catalogues only plain lists of tables, columns, schemas and types are served";
    Fault {
        hint: Some("the tables are listed by information_schema.tables and their columns by information_schema.columns".to_owned()),
        ..Fault::error(FEATURE_NOT_SUPPORTED, message)
    }
}

/// What all columns are, of the two views that people look at themselves.
fn all_of(joined: &[String]) -> Result<Vec<Item>, Fault> {
    let names: &[&str] = match joined {
        [one] if one == "tables" => &["table_catalog", "table_schema", "table_name", "table_type"],
        [one] if one == "columns" => &[
            "table_catalog",
            "table_schema",
            "table_name",
            "column_name",
            "ordinal_position",
            "is_nullable",
            "data_type",
            "udt_name",
        ],
        _ => return Err(unserved()),
    };
    Ok(names.iter().map(|name| Item::named(name)).collect())
}

/// What the rows are of: of the most particular thing that is joined. What is joined and does not exist leaves no rows.
fn subject(selection: &Selection) -> Result<Subject, Fault> {
    let mut found = Vec::new();
    for name in &selection.joined {
        let of = |names: &[&str]| names.contains(&name.as_str());
        found.push(match name {
            _ if of(OF_NOTHING) => Subject::Nothing,
            _ if of(OF_COLUMNS) => Subject::Columns,
            _ if of(OF_TABLES) => Subject::Tables,
            _ if of(OF_SCHEMAS) => Subject::Schemas,
            _ if of(OF_TYPES) => Subject::Types,
            _ if of(OF_DATABASES) => Subject::Databases,
            _ if of(OF_USERS) => Subject::Users,
            _ => return Err(unserved()),
        });
    }
    let order = [
        Subject::Nothing,
        Subject::Columns,
        Subject::Tables,
        Subject::Types,
        Subject::Schemas,
        Subject::Databases,
        Subject::Users,
    ];
    let first = order.into_iter().find(|subject| found.contains(subject));
    first.ok_or_else(unserved)
}

fn rows<'a>(subject: Subject, relations: &'a [ShownTable], tenant: &'a str) -> Vec<Row<'a>> {
    let plain = Row {
        tenant,
        schema: SCHEMA,
        table: None,
        column: None,
        kind: None,
    };
    let tables = (FIRST_TABLE..).zip(relations).map(|table| Row {
        schema: schema_of(table.1),
        table: Some(table),
        ..plain
    });
    match subject {
        Subject::Nothing => Vec::new(),
        Subject::Databases | Subject::Users => vec![plain],
        Subject::Schemas => {
            let mut schemas: Vec<Row<'_>> = vec![plain];
            for row in tables {
                if schemas.iter().all(|known| known.schema != row.schema) {
                    schemas.push(Row { table: None, ..row });
                }
            }
            schemas
        }
        Subject::Types => {
            let kinds = AttributeType::ALL.into_iter().map(ColumnKind::Of);
            let mut kinds: Vec<ColumnKind> = kinds.collect();
            kinds.sort_by_key(|kind| oid_of(*kind));
            let of = |kind| Row {
                schema: "pg_catalog",
                kind: Some(kind),
                ..plain
            };
            kinds.into_iter().map(of).collect()
        }
        Subject::Tables => tables.collect(),
        Subject::Columns => {
            let columns = tables.flat_map(|row| {
                let columns = row.table.map_or(&[][..], |(_, table)| &table.columns);
                (1..).zip(columns).map(move |column| Row {
                    column: Some(column),
                    kind: Some(column.1.kind),
                    ..row
                })
            });
            columns.collect()
        }
    }
}

/// The schema that clients are told.
fn schema_of(table: &ShownTable) -> &str {
    match table.schema {
        OWN_SCHEMA => SCHEMA,
        other => other,
    }
}

/// Whether a row is one of those that the conditions mean: of several on one column it has to meet one.
fn is_meant(row: &Row<'_>, patterns: &[(String, Pattern)]) -> bool {
    patterns.iter().all(|(name, _)| {
        let found = match named_value(name, row) {
            Some(Cell::Value(Value::Text(text))) => text,
            Some(Cell::Value(Value::Int(number))) => number.to_string(),
            // Of what has no value here no condition is looked at.
            _ => return true,
        };
        let mut own = patterns.iter().filter(|(other, _)| other == name);
        own.any(|(_, pattern)| pattern.matches(&found))
    })
}

fn text(text: &str) -> Option<Cell> {
    Some(Cell::text(text))
}

fn int(number: i64) -> Option<Cell> {
    Some(Cell::Value(Value::Int(number)))
}

fn is(truth: bool) -> Option<Cell> {
    Some(Cell::Value(Value::Bool(truth)))
}

/// What an item of a selection is of a row.
fn value(item: &Item, row: &Row<'_>) -> Cell {
    let found = match item {
        Item::Text { text: own, .. } => text(own),
        Item::Int { number, .. } => int(*number),
        Item::Bool { is_true, .. } => is(*is_true),
        Item::All | Item::Null { .. } => None,
        Item::Named { name, .. } => named_value(name, row),
        Item::Other { calls, heading } => calls
            .iter()
            .find_map(|call| called_value(call, row))
            .or_else(|| headed_value(heading, row)),
    };
    found.unwrap_or(Cell::Absent)
}

/// What a function is of a row.
fn called_value(call: &str, row: &Row<'_>) -> Option<Cell> {
    match call {
        "format_type" => named_value("data_type", row),
        "pg_get_userbyid" => text(row.tenant),
        "current_database" => text(DATABASE),
        "row_number" => named_value("attnum", row),
        "pg_table_is_visible" | "pg_type_is_visible" => is(true),
        "has_table_privilege" | "has_schema_privilege" | "has_any_column_privilege" => is(true),
        "pg_encoding_to_char" => text("UTF8"),
        _ => None,
    }
}

/// What is computed, by what its column is called: where clients turn letters into words.
fn headed_value(heading: &str, row: &Row<'_>) -> Option<Cell> {
    match heading.to_ascii_lowercase().as_str() {
        // Of another schema it is named with that.
        "table" => row.table.and_then(|(_, table)| match row.schema {
            SCHEMA => text(&table.name),
            schema => text(&format!("{schema}.{}", table.name)),
        }),
        "column" => named_value("column_name", row),
        "table_type" => row.table.and_then(|_| text("TABLE")),
        "type" => match (row.column, row.table) {
            (Some(_), _) => named_value("data_type", row),
            (None, Some(_)) => text("table"),
            (None, None) => None,
        },
        "attnotnull" => named_value("attnotnull", row),
        _ => None,
    }
}

/// What a column of a catalogue is of a row.
fn named_value(name: &str, row: &Row<'_>) -> Option<Cell> {
    let number_of_schema = || match row.schema {
        SCHEMA => int(SCHEMA_NUMBER),
        _ => int(OTHER_SCHEMA_NUMBER),
    };
    let of_schema = match name {
        "nspname" | "table_schema" | "schemaname" | "schema_name" => text(row.schema),
        "udt_schema" => text("pg_catalog"),
        "table_catalog" | "catalog_name" | "datname" => text(DATABASE),
        "relnamespace" => number_of_schema(),
        "tableowner" | "schema_owner" | "rolname" | "usename" => text(row.tenant),
        "relowner" | "nspowner" | "datdba" | "usesysid" => int(10),
        "datallowconn" | "rolcanlogin" => is(true),
        "datistemplate" | "rolsuper" | "rolcreatedb" | "rolcreaterole" | "usesuper" => is(false),
        "encoding" => int(6),
        "datcollate" | "datctype" => text("C"),
        _ => None,
    };
    if of_schema.is_some() {
        return of_schema;
    }
    if let Some((number, table)) = row.table {
        let of_table = match name {
            "relname" | "table_name" | "tablename" => text(&table.name),
            "attrelid" => int(number),
            "oid" if row.column.is_none() => int(number),
            "relkind" => text("r"),
            "table_type" => text("BASE TABLE"),
            "is_insertable_into" | "is_updatable" => text("NO"),
            "relpersistence" => text("p"),
            "relreplident" => text("d"),
            "relnatts" => int(i64::try_from(table.columns.len()).unwrap_or(0)),
            "reltuples" => int(-1),
            "relchecks" | "reltablespace" | "relam" | "reltoastrelid" | "relpages" => int(0),
            "relhasindex"
            | "relhasrules"
            | "relhastriggers"
            | "relrowsecurity"
            | "relforcerowsecurity"
            | "relispartition"
            | "relhassubclass"
            | "hasindexes"
            | "hasrules"
            | "hastriggers"
            | "rowsecurity" => is(false),
            _ => None,
        };
        if of_table.is_some() {
            return of_table;
        }
    }
    if let Some((place, column)) = row.column {
        let of_column = match name {
            "attname" | "column_name" => text(&column.name),
            "attnum" | "ordinal_position" => int(place),
            "atttypid" => int(i64::from(oid_of(column.kind))),
            "atttypmod" => int(-1),
            "attlen" => int(i64::from(name_of(column.kind).2)),
            "attcollation" | "attndims" => int(0),
            "attnotnull" | "attisdropped" | "atthasdef" => is(false),
            "attidentity" | "attgenerated" => text(""),
            "is_nullable" => text("YES"),
            "is_identity" | "is_generated" => text("NO"),
            _ => None,
        };
        if of_column.is_some() {
            return of_column;
        }
    }
    if let Some(kind) = row.kind {
        return match name {
            "oid" => int(i64::from(oid_of(kind))),
            "data_type" => text(name_of(kind).1),
            "typname" | "udt_name" => text(name_of(kind).0),
            "typlen" => int(i64::from(name_of(kind).2)),
            "typtype" => text("b"),
            "typtypmod" => int(-1),
            "typcategory" => text(match oid_of(kind) {
                BOOL => "B",
                INT8 | FLOAT8 | NUMERIC => "N",
                TIMESTAMPTZ => "D",
                JSONB => "U",
                TEXT => "S",
                _ => "X",
            }),
            "typbasetype" | "typrelid" | "typelem" | "typndims" | "typcollation" => int(0),
            "typnamespace" => int(11),
            "typnotnull" => is(false),
            "typdelim" => text(","),
            "typinput" => text(name_of(kind).0),
            _ => None,
        };
    }
    match name {
        "oid" => number_of_schema(),
        _ => None,
    }
}

/// What the values of an item are, by a row that has one of everything.
fn kind_of(item: &Item) -> AttributeType {
    let sample = ShownTable {
        schema: OWN_SCHEMA,
        name: String::new(),
        columns: vec![Column::of("", AttributeType::Text)],
    };
    let of_table = Row {
        tenant: "",
        schema: "",
        table: Some((0, &sample)),
        column: None,
        kind: None,
    };
    let of_column = Row {
        column: Some((1, &sample.columns[0])),
        kind: Some(ColumnKind::Of(AttributeType::Text)),
        ..of_table
    };
    let found = [value(item, &of_column), value(item, &of_table)];
    let found = found.iter().find_map(|cell| match cell {
        Cell::Value(value) => Some(value.kind()),
        Cell::Absent | Cell::Digits(_) => None,
    });
    found.unwrap_or(AttributeType::Text)
}

/// The value in its column's type, where it is of that.
fn fitted(cell: Cell, column: &Column) -> Cell {
    match (&cell, column.kind) {
        (Cell::Value(value), ColumnKind::Of(kind)) if value.kind() != kind => Cell::Absent,
        _ => cell,
    }
}

#[cfg(test)]
mod tests;
