//! What the rows of a question about catalogues are of, and these rows.

use sheaf_export::Column;
use sheaf_lake::analytics::ShownTable;
use sheaf_model::AttributeType;

use super::super::command::SCHEMA;
use super::World;
use super::row::{Row, TypeName};

/// The number of the first table; what is below is PostgreSQL's own.
const FIRST_TABLE: i64 = 16_384;
/// What the lake calls the schema of its own tables, which is not named in a question.
const OWN_SCHEMA: &str = "lake";

/// Catalogues that have rows, and of what.
const OF_COLUMNS: &[&str] = &["pg_attribute", "columns"];
const OF_TABLES: &[&str] = &["pg_class", "pg_tables", "tables"];
const OF_SCHEMAS: &[&str] = &["pg_namespace", "schemata"];
const OF_TYPES: &[&str] = &["pg_type"];
const OF_DATABASES: &[&str] = &["pg_database"];
const OF_USERS: &[&str] = &["pg_roles", "pg_user"];
const OF_SETTINGS: &[&str] = &["pg_settings"];
/// Catalogues of what there is none of.
#[rustfmt::skip]
const OF_NOTHING: &[&str] = &[
    "pg_index", "pg_constraint", "pg_inherits", "pg_policy", "pg_publication", "pg_publication_rel", "pg_publication_namespace",
    "pg_statistic_ext", "pg_trigger", "pg_rewrite", "pg_extension", "pg_description", "pg_proc", "pg_foreign_table",
    "pg_foreign_server", "pg_partitioned_table", "pg_matviews", "pg_views", "pg_indexes", "pg_attrdef", "pg_enum", "pg_sequence",
    "pg_depend", "pg_collation", "pg_am", "pg_tablespace", "pg_subscription", "pg_event_trigger", "pg_stat_user_tables", "views", "table_constraints",
    "key_column_usage", "constraint_column_usage", "referential_constraints", "routines", "sequences", "triggers",
];
/// Functions that make rows. Beside what there is none of they matter to nobody.
const SERIES: &[&str] = &["generate_series"];

/// What the rows of a question are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    Nothing,
    Columns,
    Tables,
    Types,
    Schemas,
    Databases,
    Users,
    Settings,
}

/// Whether it is a catalogue of what there is none of.
pub(super) fn is_of_nothing(name: &str) -> bool {
    OF_NOTHING.contains(&name)
}

/// What the rows are of: of the most particular thing that is joined. What is joined and does not exist leaves no rows. Absent
/// where a catalogue is not known.
pub(super) fn subject(joined: &[String]) -> Option<Subject> {
    let mut found = Vec::new();
    let mut has_series = false;
    for name in joined {
        let of = |names: &[&str]| names.contains(&name.as_str());
        found.push(match name {
            _ if is_of_nothing(name) => Subject::Nothing,
            _ if of(OF_COLUMNS) => Subject::Columns,
            _ if of(OF_TABLES) => Subject::Tables,
            _ if of(OF_SCHEMAS) => Subject::Schemas,
            _ if of(OF_TYPES) => Subject::Types,
            _ if of(OF_DATABASES) => Subject::Databases,
            _ if of(OF_USERS) => Subject::Users,
            _ if of(OF_SETTINGS) => Subject::Settings,
            _ if of(SERIES) => {
                has_series = true;
                continue;
            }
            _ => return None,
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
        Subject::Settings,
    ];
    let first = order.into_iter().find(|subject| found.contains(subject))?;
    (first == Subject::Nothing || !has_series).then_some(first)
}

impl Subject {
    /// The rows that the world has of it.
    pub(super) fn rows<'a>(self, world: &'a World) -> Box<dyn Iterator<Item = Row<'a>> + 'a> {
        let plain = Row {
            tenant: &world.tenant,
            schema: SCHEMA,
            table: None,
            column: None,
            type_name: None,
            setting: None,
        };
        let tables = (FIRST_TABLE..).zip(&world.tables).map(move |table| Row {
            schema: schema_of(table.1),
            table: Some(table),
            ..plain
        });
        match self {
            Subject::Nothing => Box::new(std::iter::empty()),
            Subject::Databases | Subject::Users => Box::new(std::iter::once(plain)),
            Subject::Schemas => {
                let mut schemas: Vec<Row<'_>> = vec![plain];
                for row in tables {
                    if schemas.iter().all(|known| known.schema != row.schema) {
                        schemas.push(Row { table: None, ..row });
                    }
                }
                Box::new(schemas.into_iter())
            }
            Subject::Types => {
                let of = move |name| Row {
                    schema: "pg_catalog",
                    type_name: Some(name),
                    ..plain
                };
                Box::new(TypeName::all().into_iter().map(of))
            }
            Subject::Settings => {
                let settings = world.settings.iter();
                Box::new(settings.map(move |(name, value)| Row {
                    setting: Some((name, value)),
                    ..plain
                }))
            }
            Subject::Tables => Box::new(tables),
            Subject::Columns => Box::new(tables.flat_map(|row| {
                let columns = row.table.map_or(&[][..], |(_, table)| &table.columns);
                (1..).zip(columns).map(move |column| Row {
                    column: Some(column),
                    type_name: Some(TypeName::of(column.1.kind)),
                    ..row
                })
            })),
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

/// A table as there may be one.
pub(super) fn sample() -> ShownTable {
    ShownTable {
        schema: OWN_SCHEMA,
        name: String::new(),
        columns: vec![Column::of("", AttributeType::Text)],
    }
}
