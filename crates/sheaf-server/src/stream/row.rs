//! Items of streams as lines and as rows, and the columns that rows have.
//!
//! The columns of a file are fixed when it begins: those of the item itself, then the attributes that were asked for, or
//! all of the tenant's catalogue as it is then, in order of name. An attribute that is named like one of the item's own
//! columns is headed `attributes.type`, as its place in JSON is.

use std::collections::HashMap;

use serde::Serialize;
use sheaf_export::{Cell, Column, ColumnKind};
use sheaf_model::{AttributeType, Name, Timestamp, Value, is_reserved};
use sheaf_query::{Aggregate, AggregateValue, EntityAnswer, Fill, SeriesEntry, aggregates_of};
use sheaf_store::catalogue::{Attribute, Catalogue};

use crate::history::SeriesItemBody;
use crate::problem::{Code, Problem};
use crate::wire::EntityBody;

/// Attributes of a file that does not name any: spreadsheets and readers of columns end at some thousands.
const ATTRIBUTES_MAX: usize = 1_000;

/// An item of a stream.
pub(crate) enum Item {
    Entity(Box<EntityAnswer>),
    Series(Option<(String, String)>, Box<SeriesEntry>),
}

/// A line of a stream.
#[derive(Serialize)]
#[serde(untagged)]
enum Line {
    Entity(EntityBody),
    Series(SeriesItemBody),
}

impl Item {
    pub(crate) fn entity(entity: EntityAnswer) -> Item {
        Item::Entity(Box::new(entity))
    }

    pub(crate) fn series(entity: Option<(String, String)>, entry: SeriesEntry) -> Item {
        Item::Series(entity, Box::new(entry))
    }

    /// The item as in a page, and the end of the line.
    pub(crate) fn write_line(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        let line = match self {
            Item::Entity(entity) => Line::Entity(EntityBody::of(EntityAnswer::clone(entity), None)),
            Item::Series(entity, entry) => {
                let body = SeriesItemBody::of(entity.clone(), SeriesEntry::clone(entry));
                Line::Series(body)
            }
        };
        serde_json::to_writer(&mut *out, &line)?;
        out.push(b'\n');
        Ok(())
    }
}

/// What follows an item's own columns.
#[derive(PartialEq, Eq, Hash, Clone)]
enum Field {
    Attribute(String),
    Aggregate(String, &'static str),
}

/// The columns of a file, and where each value goes.
pub(crate) struct Layout {
    columns: Vec<Column>,
    own: Vec<Own>,
    places: HashMap<Field, usize>,
}

/// An item's own columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Own {
    Type,
    Id,
    ObservedAt,
    UpdatedAt,
    Version,
    IngestedAt,
    Replaced,
    Deleted,
    Seq,
    BatchId,
    From,
    To,
}

impl Own {
    fn column(self) -> Column {
        use AttributeType::{Bool, Int, Text, Time};
        let (name, kind) = match self {
            Own::Type => ("type", Text),
            Own::Id => ("id", Text),
            Own::ObservedAt => ("observed_at", Time),
            Own::UpdatedAt => ("updated_at", Time),
            Own::Version => ("version", Int),
            Own::IngestedAt => ("ingested_at", Time),
            Own::Replaced => ("replaced", Bool),
            Own::Deleted => ("deleted", Bool),
            Own::Seq => ("seq", Int),
            Own::BatchId => ("batch_id", Text),
            Own::From => ("from", Time),
            Own::To => ("to", Time),
        };
        Column::of(name, kind)
    }

    fn cell(self, item: &Item) -> Cell {
        let time = |time: Timestamp| Cell::Value(Value::Time(time));
        match item {
            Item::Entity(entity) => match self {
                Own::Type => Cell::text(&entity.entity_type),
                Own::Id => Cell::text(&entity.external_id),
                Own::ObservedAt => time(entity.observed_at),
                Own::UpdatedAt => time(entity.updated_at),
                Own::Version => entity
                    .version
                    .map_or(Cell::Absent, |version| Cell::Value(Value::Int(version))),
                _ => Cell::Absent,
            },
            Item::Series(entity, entry) => match (self, entry.as_ref()) {
                (Own::Type, _) => name_cell(entity.as_ref().map(|(entity_type, _)| entity_type)),
                (Own::Id, _) => name_cell(entity.as_ref().map(|(_, id)| id)),
                (Own::From, SeriesEntry::Bucket(bucket)) => time(bucket.from),
                (Own::To, SeriesEntry::Bucket(bucket)) => time(bucket.to),
                (Own::ObservedAt, SeriesEntry::Instant(item)) => time(item.observed_at),
                (Own::IngestedAt, SeriesEntry::Instant(item)) => time(item.ingested_at),
                (Own::Replaced, SeriesEntry::Instant(item)) => {
                    Cell::Value(Value::Bool(item.replaced))
                }
                (Own::Deleted, SeriesEntry::Instant(item)) => {
                    Cell::Value(Value::Bool(item.deleted))
                }
                (Own::Seq, SeriesEntry::Instant(item)) => item.row.map_or(Cell::Absent, |row| {
                    Cell::Value(Value::Int(i64::from(row.seq)))
                }),
                (Own::BatchId, SeriesEntry::Instant(item)) => item
                    .row
                    .map_or(Cell::Absent, |row| Cell::text(row.batch.to_string())),
                _ => Cell::Absent,
            },
        }
    }
}

fn name_cell(name: Option<&String>) -> Cell {
    name.map_or(Cell::Absent, Cell::text)
}

impl Layout {
    /// Of a list.
    pub(crate) fn of_entities(
        select: Option<&[String]>,
        catalogue: &Catalogue,
    ) -> Result<Layout, Problem> {
        let own = [
            Own::Type,
            Own::Id,
            Own::ObservedAt,
            Own::UpdatedAt,
            Own::Version,
        ];
        let attributes = attributes("select", select, catalogue)?;
        let fields = attributes.into_iter().map(|attribute| {
            let name = attribute.name.clone();
            (Field::Attribute(name), ColumnKind::Of(attribute.kind))
        });
        Ok(Layout::new(own.to_vec(), fields.collect()))
    }

    /// Of histories, one row an instant, or one for each stored row.
    pub(crate) fn of_instants(
        is_each: bool,
        names: Option<&[String]>,
        is_by_row: bool,
        catalogue: &Catalogue,
    ) -> Result<Layout, Problem> {
        let mut own = entity_columns(is_each);
        own.extend([
            Own::ObservedAt,
            Own::IngestedAt,
            Own::Replaced,
            Own::Deleted,
        ]);
        if is_by_row {
            own.extend([Own::Seq, Own::BatchId]);
        }
        let attributes = attributes("attribute", names, catalogue)?;
        let fields = attributes.into_iter().map(|attribute| {
            let name = attribute.name.clone();
            (Field::Attribute(name), ColumnKind::Of(attribute.kind))
        });
        Ok(Layout::new(own, fields.collect()))
    }

    /// Of histories in buckets: a column for each aggregate of each attribute.
    pub(crate) fn of_buckets(
        is_each: bool,
        names: Option<&[String]>,
        asked: Option<&[Aggregate]>,
        fill: Fill,
        catalogue: &Catalogue,
    ) -> Result<Layout, Problem> {
        if names.is_none() {
            return Err(Problem::invalid(
                "attribute",
                "is required for buckets as columns",
            ));
        }
        let mut own = entity_columns(is_each);
        own.extend([Own::From, Own::To]);
        let mut fields = Vec::new();
        for attribute in attributes("attribute", names, catalogue)? {
            for aggregate in aggregates_of(asked, attribute.kind) {
                let field = Field::Aggregate(attribute.name.clone(), aggregate.as_str());
                fields.push((field, aggregate_kind(aggregate, attribute.kind, fill)));
            }
        }
        Ok(Layout::new(own, fields))
    }

    fn new(own: Vec<Own>, fields: Vec<(Field, ColumnKind)>) -> Layout {
        let mut columns: Vec<Column> = own.iter().map(|own| own.column()).collect();
        let mut places = HashMap::new();
        for (field, kind) in fields {
            let mut name = match &field {
                Field::Attribute(name) => name.clone(),
                Field::Aggregate(name, aggregate) => format!("{name}.{aggregate}"),
            };
            if places.contains_key(&field) {
                continue;
            }
            while columns.iter().any(|column| column.name == name) {
                name.insert_str(0, "attributes.");
            }
            places.insert(field, columns.len());
            columns.push(Column { name, kind });
        }
        Layout {
            columns,
            own,
            places,
        }
    }

    pub(crate) fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// An item as a row. A value that no column is for is left out: its attribute is younger than the file.
    pub(crate) fn row(&self, item: &Item) -> Vec<Cell> {
        let mut row = vec![Cell::Absent; self.columns.len()];
        for (cell, own) in row.iter_mut().zip(&self.own) {
            *cell = own.cell(item);
        }
        let mut put = |field: Field, value: Cell| {
            if let Some(place) = self.places.get(&field) {
                row[*place] = fitted(value, self.columns[*place].kind);
            }
        };
        match item {
            Item::Entity(entity) => {
                for (name, value) in &entity.attributes {
                    put(Field::Attribute(name.clone()), Cell::Value(value.clone()));
                }
            }
            Item::Series(_, entry) => match entry.as_ref() {
                SeriesEntry::Instant(item) => {
                    for (name, value) in &item.attributes {
                        let cell = value.clone().map_or(Cell::Absent, Cell::Value);
                        put(Field::Attribute(name.clone()), cell);
                    }
                }
                SeriesEntry::Bucket(bucket) => {
                    for (name, aggregates) in &bucket.attributes {
                        for (aggregate, value) in aggregates {
                            let field = Field::Aggregate(name.clone(), aggregate.as_str());
                            put(field, aggregate_cell(value));
                        }
                    }
                }
            },
        }
        row
    }
}

fn entity_columns(is_each: bool) -> Vec<Own> {
    if is_each {
        vec![Own::Type, Own::Id]
    } else {
        Vec::new()
    }
}

/// The attributes with these names in their order, or all in order of name.
fn attributes<'a>(
    parameter: &str,
    names: Option<&[String]>,
    catalogue: &'a Catalogue,
) -> Result<Vec<&'a Attribute>, Problem> {
    let Some(names) = names else {
        let mut all: Vec<&Attribute> = catalogue.attributes().map(AsRef::as_ref).collect();
        if all.len() > ATTRIBUTES_MAX {
            return Err(Problem::new(
                Code::QueryLimit,
                format!(
                    "the tenant has more than {ATTRIBUTES_MAX} attributes; name some in {parameter}"
                ),
            ));
        }
        all.sort_by(|one, two| one.name.cmp(&two.name));
        return Ok(all);
    };
    let mut found = Vec::with_capacity(names.len());
    for name in names.iter().filter(|name| !is_reserved(name)) {
        let attribute = Name::parse(name)
            .ok()
            .and_then(|name| catalogue.by_name(name.as_str()));
        let attribute = attribute.ok_or_else(|| {
            let detail = format!("unknown attribute {name:?}");
            Problem::parameter(Code::UnknownAttribute, parameter, detail)
        })?;
        found.push(attribute.as_ref());
    }
    Ok(found)
}

/// What an aggregate's column holds. On lines between whole numbers there are others.
fn aggregate_kind(aggregate: Aggregate, kind: AttributeType, fill: Fill) -> ColumnKind {
    use AttributeType::{Decimal, Float, Int};
    let is_float = kind == Int && fill == Fill::Linear;
    match aggregate {
        Aggregate::Count => ColumnKind::Of(Int),
        Aggregate::Avg if kind == Decimal => ColumnKind::Of(Decimal),
        Aggregate::Avg => ColumnKind::Of(Float),
        Aggregate::Min | Aggregate::Max | Aggregate::Sum | Aggregate::First | Aggregate::Last
            if is_float =>
        {
            ColumnKind::Of(Float)
        }
        Aggregate::Sum if kind == Int => ColumnKind::WideInt,
        Aggregate::Min | Aggregate::Max | Aggregate::Sum | Aggregate::First | Aggregate::Last => {
            ColumnKind::Of(kind)
        }
    }
}

fn aggregate_cell(value: &AggregateValue) -> Cell {
    match value {
        AggregateValue::Null => Cell::Absent,
        AggregateValue::Value(value) => Cell::Value(value.clone()),
        AggregateValue::Digits(digits) => Cell::Digits(digits.clone()),
    }
}

/// A whole number in a column of floats is one of them.
fn fitted(cell: Cell, kind: ColumnKind) -> Cell {
    let digits = match (&cell, kind) {
        (Cell::Value(Value::Int(number)), ColumnKind::Of(AttributeType::Float)) => {
            number.to_string()
        }
        (Cell::Digits(digits), ColumnKind::Of(AttributeType::Float)) => digits.clone(),
        _ => return cell,
    };
    let number = digits.parse().ok().and_then(Value::float);
    number.map_or(Cell::Absent, Cell::Value)
}
