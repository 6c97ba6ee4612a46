//! What a row of a catalogue holds. Pure.

use sheaf_export::{Cell, Column, ColumnKind};
use sheaf_lake::analytics::ShownTable;
use sheaf_model::{AttributeType, Value};

use super::super::command::SCHEMA;
use super::super::value::{name_of, oid_of};
use super::DATABASE;
use super::identifier::quoted;
use super::item::Item;
use super::subject::sample;

/// The number of the schema of the lake's own tables, and of that of others.
const SCHEMA_NUMBER: i64 = 2_200;
const OTHER_SCHEMA_NUMBER: i64 = 2_201;

/// A row.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) tenant: &'a str,
    /// The schema of a table, or a schema.
    pub(super) schema: &'a str,
    pub(super) table: Option<(i64, &'a ShownTable)>,
    pub(super) column: Option<(i64, &'a Column)>,
    pub(super) type_name: Option<TypeName>,
    pub(super) setting: Option<(&'a str, &'a str)>,
}

/// A type of PostgreSQL.
#[derive(Debug, Clone, Copy)]
pub(super) struct TypeName {
    oid: u32,
    name: &'static str,
    title: &'static str,
    /// Below zero where values have different lengths.
    bytes: i16,
    category: &'static str,
}

/// Types that no column has and drivers look up all the same.
#[rustfmt::skip]
const OTHERS: [(u32, &str, &str, i16, &str); 10] = [
    (19, "name", "name", 64, "S"),
    (21, "int2", "smallint", 2, "N"),
    (23, "int4", "integer", 4, "N"),
    (114, "json", "json", -1, "U"),
    (700, "float4", "real", 4, "N"),
    (1042, "bpchar", "character", -1, "S"),
    (1043, "varchar", "character varying", -1, "S"),
    (1082, "date", "date", 4, "D"),
    (1114, "timestamp", "timestamp without time zone", 8, "D"),
    (2950, "uuid", "uuid", 16, "U"),
];

impl TypeName {
    pub(super) fn of(kind: ColumnKind) -> TypeName {
        let (name, title, bytes) = name_of(kind);
        let category = match kind {
            ColumnKind::WideInt => "N",
            ColumnKind::Of(kind) => match kind {
                AttributeType::Bool => "B",
                AttributeType::Int | AttributeType::Float | AttributeType::Decimal => "N",
                AttributeType::Time => "D",
                AttributeType::Json => "U",
                AttributeType::Text => "S",
            },
        };
        TypeName {
            oid: oid_of(kind),
            name,
            title,
            bytes,
            category,
        }
    }

    /// All of them, in the order of their numbers.
    pub(super) fn all() -> Vec<TypeName> {
        let kinds = AttributeType::ALL.into_iter().map(ColumnKind::Of);
        let others = OTHERS.map(|(oid, name, title, bytes, category)| TypeName {
            oid,
            name,
            title,
            bytes,
            category,
        });
        let mut all: Vec<TypeName> = kinds.map(TypeName::of).chain(others).collect();
        all.sort_by_key(|name| name.oid);
        all
    }

    fn value(self, name: &str) -> Option<Cell> {
        match name {
            "oid" => int(i64::from(self.oid)),
            "data_type" => text(self.title),
            "typname" | "udt_name" | "typinput" => text(self.name),
            "typlen" => int(i64::from(self.bytes)),
            "typtype" => text("b"),
            "typtypmod" => int(-1),
            "typcategory" => text(self.category),
            "typbasetype" | "typrelid" | "typelem" | "typarray" | "typndims" | "typcollation" => {
                int(0)
            }
            "typnamespace" => int(11),
            "typnotnull" => is(false),
            "typdelim" => text(","),
            _ => None,
        }
    }
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
pub(super) fn value(item: &Item, row: &Row<'_>) -> Cell {
    let found = match item {
        Item::Text { text: own, .. } => text(own),
        Item::Int { number, .. } => int(*number),
        Item::Bool { is_true, .. } => is(*is_true),
        Item::All | Item::Null { .. } => None,
        Item::Named {
            name, is_quoted, ..
        } => match (named_value(name, row), is_quoted) {
            (Some(Cell::Value(Value::Text(name))), true) => text(&quoted(&name)),
            (found, _) => found,
        },
        Item::Other { calls, heading } => calls
            .iter()
            .find_map(|call| called_value(call, row))
            .or_else(|| headed_value(heading, row)),
    };
    found.unwrap_or(Cell::Absent)
}

/// What the values of an item are, by rows that have one of everything.
pub(super) fn kind_of(item: &Item) -> AttributeType {
    let sample = sample();
    let plain = Row {
        tenant: "",
        schema: "",
        table: None,
        column: None,
        type_name: None,
        setting: Some(("", "")),
    };
    let of_table = Row {
        table: Some((0, &sample)),
        ..plain
    };
    let of_column = Row {
        column: Some((1, &sample.columns[0])),
        type_name: Some(TypeName::of(ColumnKind::Of(AttributeType::Text))),
        ..of_table
    };
    let found = [value(item, &of_column), value(item, &of_table)];
    let found = found.iter().find_map(|cell| match cell {
        Cell::Value(value) => Some(value.kind()),
        Cell::Absent | Cell::Digits(_) => None,
    });
    found.unwrap_or(AttributeType::Text)
}

/// What a function is of a row.
fn called_value(call: &str, row: &Row<'_>) -> Option<Cell> {
    match call {
        "format_type" => named_value("data_type", row),
        "pg_get_userbyid" => text(row.tenant),
        "current_database" => text(DATABASE),
        "row_number" => named_value("attnum", row),
        "pg_table_is_visible" | "pg_type_is_visible" | "current_schemas" => is(true),
        "pg_encoding_to_char" => text("UTF8"),
        _ => None,
    }
}

/// What is computed, by what its column is called: where clients turn letters into words, or reckon with what there is.
fn headed_value(heading: &str, row: &Row<'_>) -> Option<Cell> {
    match heading.to_ascii_lowercase().replace('-', "_").as_str() {
        // Of another schema it is named with that.
        "table" => row.table.and_then(|(_, table)| match row.schema {
            SCHEMA => text(&quoted(&table.name)),
            schema => text(&format!("{}.{}", quoted(schema), quoted(&table.name))),
        }),
        "column" => named_value("column_name", row),
        "table_type" => row.table.and_then(|_| text("TABLE")),
        "type" => match (row.column, row.table) {
            (Some(_), _) => named_value("data_type", row),
            (None, Some(_)) => text("table"),
            (None, None) => None,
        },
        "attnotnull" => named_value("attnotnull", row),
        "database_type" => named_value("udt_name", row),
        "database_position" => row.column.and_then(|(place, _)| int(place - 1)),
        "pk?" | "database_required" | "database_is_auto_increment" => {
            row.column.and_then(|_| is(false))
        }
        _ => None,
    }
}

/// What a column of a catalogue is of a row.
pub(super) fn named_value(name: &str, row: &Row<'_>) -> Option<Cell> {
    of_schema(name, row)
        .or_else(|| of_table(name, row))
        .or_else(|| of_column(name, row))
        .or_else(|| row.type_name.and_then(|type_name| type_name.value(name)))
        .or_else(|| of_setting(name, row))
        .or_else(|| match (name, row.table, row.type_name) {
            ("oid", None, None) => number_of_schema(row),
            _ => None,
        })
}

fn number_of_schema(row: &Row<'_>) -> Option<Cell> {
    match row.schema {
        SCHEMA => int(SCHEMA_NUMBER),
        _ => int(OTHER_SCHEMA_NUMBER),
    }
}

fn of_schema(name: &str, row: &Row<'_>) -> Option<Cell> {
    match name {
        "nspname" | "table_schema" | "schemaname" | "schema_name" => text(row.schema),
        "udt_schema" => text("pg_catalog"),
        "table_catalog" | "catalog_name" | "datname" => text(DATABASE),
        "relnamespace" => number_of_schema(row),
        "tableowner" | "schema_owner" | "rolname" | "usename" => text(row.tenant),
        "relowner" | "nspowner" | "datdba" | "usesysid" => int(10),
        "datallowconn" | "rolcanlogin" => is(true),
        "datistemplate" | "rolsuper" | "rolcreatedb" | "rolcreaterole" | "usesuper" => is(false),
        "encoding" => int(6),
        "datcollate" | "datctype" => text("C"),
        _ => None,
    }
}

fn of_table(name: &str, row: &Row<'_>) -> Option<Cell> {
    let (number, table) = row.table?;
    match name {
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
    }
}

fn of_column(name: &str, row: &Row<'_>) -> Option<Cell> {
    let (place, column) = row.column?;
    match name {
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
    }
}

fn of_setting(name: &str, row: &Row<'_>) -> Option<Cell> {
    let (setting, value) = row.setting?;
    match name {
        "name" => text(setting),
        "setting" => text(value),
        _ => None,
    }
}
