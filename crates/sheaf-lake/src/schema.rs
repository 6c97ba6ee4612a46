//! The tables of the lake: their columns, how they are divided into files, and in which order rows are inside one.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::SchemaRef as ArrowSchemaRef;
use iceberg::TableCreation;
use iceberg::arrow::schema_to_arrow_schema;
use iceberg::spec::{
    FormatVersion, NestedField, NullOrder, PrimitiveType, Schema, SortDirection, SortField,
    SortOrder, TableMetadata, TableMetadataBuilder, Transform, Type, UnboundPartitionField,
    UnboundPartitionSpec,
};
use uuid::Uuid;

use crate::error::LakeError;

/// Into how many files a day's facts are divided at least, by their tenant. More would make more and smaller files in each
/// commit; fewer would make a question about one tenant read more of the others'.
pub(crate) const TENANT_BUCKETS: u32 = 16;
/// Digits of decimals, and how many of them are after the point. A number that does not fit is kept as text.
pub(crate) const DECIMAL_DIGITS: u32 = 38;
/// See [`DECIMAL_DIGITS`].
pub(crate) const DECIMAL_PLACES: u32 = 12;

/// The tables, in the order in which a commit writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum LakeTable {
    Tenants,
    Attributes,
    Entities,
    Facts,
    FactsCorrected,
    Keyframes,
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Int,
    Long,
    Double,
    Decimal,
    Text,
    Bool,
    Time,
    Uuid,
}

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// Whether every row has a value.
    pub(crate) is_required: bool,
    /// Whether each file says which values it has at most and at least.
    pub(crate) has_bounds: bool,
    pub(crate) about: &'static str,
}

const fn column(name: &'static str, kind: Kind, about: &'static str) -> Column {
    Column {
        name,
        kind,
        is_required: true,
        has_bounds: true,
        about,
    }
}

const fn optional(name: &'static str, kind: Kind, about: &'static str) -> Column {
    Column {
        is_required: false,
        ..column(name, kind, about)
    }
}

/// Of long texts no bounds are kept: they would be as long.
const fn long_text(name: &'static str, about: &'static str) -> Column {
    Column {
        has_bounds: false,
        ..optional(name, Kind::Text, about)
    }
}

const FACTS: &[Column] = &[
    column("tenant_id", Kind::Long, "The tenant."),
    column("entity_id", Kind::Long, "The entity."),
    optional("entity_type", Kind::Text, "The entity's type."),
    optional(
        "external_id",
        Kind::Text,
        "The entity's id within its type.",
    ),
    optional(
        "attribute_id",
        Kind::Long,
        "The attribute's number; null for a replace, a delete and an event without attributes.",
    ),
    optional("attribute", Kind::Text, "The attribute's name."),
    optional(
        "type",
        Kind::Text,
        "The attribute's type, which says which value column counts.",
    ),
    column("observed_at", Kind::Time, "The instant."),
    column(
        "seq",
        Kind::Int,
        "The place of the event among those of its instant.",
    ),
    column("op", Kind::Text, "patch, replace, delete or correct."),
    Column {
        has_bounds: false,
        ..column("batch_id", Kind::Uuid, "The request that brought it.")
    },
    column("ingested_at", Kind::Time, "When the server received it."),
    optional("value_int", Kind::Long, "The value of an int attribute."),
    optional(
        "value_float",
        Kind::Double,
        "The value of a float attribute.",
    ),
    Column {
        has_bounds: false,
        ..optional(
            "value_decimal",
            Kind::Decimal,
            "The value of a decimal attribute; null if it has more digits than fit, which value_text then has.",
        )
    },
    long_text(
        "value_text",
        "The value of a text attribute; of a decimal attribute as it was written, where value_decimal does not say that: it does not fit, or has zeros at its end.",
    ),
    optional("value_bool", Kind::Bool, "The value of a bool attribute."),
    optional("value_time", Kind::Time, "The value of a time attribute."),
    long_text("value_json", "The value of a json attribute."),
    column(
        "removed",
        Kind::Bool,
        "Whether the attribute has no value from this instant on.",
    ),
];

const KEYFRAMES: &[Column] = &[
    FACTS[0],
    FACTS[1],
    FACTS[2],
    FACTS[3],
    column(
        "at",
        Kind::Time,
        "The end of a period: the row is what the events of the entity before it come to, but for those that were reported later.",
    ),
    column(
        "newest",
        Kind::Time,
        "The time of the newest of these events.",
    ),
    optional(
        "floor_at",
        Kind::Time,
        "The time of the last replace or delete.",
    ),
    column(
        "deleted",
        Kind::Bool,
        "Whether the newest event is a delete.",
    ),
    optional(
        "attribute_id",
        Kind::Long,
        "The attribute's number; null in one row of each keyframe, which may have no others.",
    ),
    FACTS[5],
    FACTS[6],
    optional("observed_at", Kind::Time, "Since when it has the value."),
    FACTS[12],
    FACTS[13],
    FACTS[14],
    FACTS[15],
    FACTS[16],
    FACTS[17],
    FACTS[18],
    FACTS[19],
];

/// Where the row was last changed in the change stream: of two states of a row the later counts.
const CHANGED: [Column; 3] = [
    column(
        "changed_timeline",
        Kind::Long,
        "The timeline of the change that the row is as of.",
    ),
    column(
        "changed_lsn",
        Kind::Long,
        "Where that change was committed.",
    ),
    column(
        "changed_ordinal",
        Kind::Long,
        "Its place in its transaction.",
    ),
];

const ENTITIES: &[Column] = &[
    column("tenant_id", Kind::Long, "The tenant."),
    column("entity_id", Kind::Long, "The entity's number."),
    optional("entity_type", Kind::Text, "Its type."),
    optional("external_id", Kind::Text, "Its id within its type."),
    optional("created_at", Kind::Time, "When the name was first seen."),
    CHANGED[0],
    CHANGED[1],
    CHANGED[2],
];

const ATTRIBUTES: &[Column] = &[
    column("tenant_id", Kind::Long, "The tenant."),
    column("attribute_id", Kind::Long, "The attribute's number."),
    optional("name", Kind::Text, "Its name."),
    optional("type", Kind::Text, "What its values are."),
    optional("origin", Kind::Text, "declared or inferred."),
    optional("unit", Kind::Text, "The unit of its values."),
    long_text("description", "What it means."),
    long_text("schema", "A JSON Schema that its values satisfy."),
    optional("pii", Kind::Bool, "Whether its values are about people."),
    optional("pin", Kind::Text, "hot or cold where somebody said so."),
    optional("temperature", Kind::Text, "cold, warming, hot or cooling."),
    optional("created_at", Kind::Time, "When it was made."),
    optional(
        "series_tag",
        Kind::Bool,
        "Whether line protocol has carried it as a tag beside those that make the id.",
    ),
    optional(
        "value_index",
        Kind::Text,
        "Whether PostgreSQL keeps an index of its values.",
    ),
    CHANGED[0],
    CHANGED[1],
    CHANGED[2],
];

const TENANTS: &[Column] = &[
    column("tenant_id", Kind::Long, "The tenant's number."),
    optional("name", Kind::Text, "Its name."),
    optional(
        "unknown_attributes",
        Kind::Text,
        "Whether attributes that it lacks are created or refused.",
    ),
    optional(
        "observed_at_min",
        Kind::Time,
        "Facts observed before this are refused.",
    ),
    optional(
        "observed_at_ahead_max_micros",
        Kind::Long,
        "Facts observed further ahead are refused.",
    ),
    optional(
        "retention_micros",
        Kind::Long,
        "How long history is kept; null is for ever.",
    ),
    long_text(
        "line_protocol",
        "By measurement, the tags that make the id.",
    ),
    optional(
        "catalogue_version",
        Kind::Long,
        "One more with every change of its catalogue.",
    ),
    optional("created_at", Kind::Time, "When it was made."),
    CHANGED[0],
    CHANGED[1],
    CHANGED[2],
];

impl LakeTable {
    pub(crate) const ALL: [LakeTable; 6] = [
        LakeTable::Tenants,
        LakeTable::Attributes,
        LakeTable::Entities,
        LakeTable::Facts,
        LakeTable::FactsCorrected,
        LakeTable::Keyframes,
    ];

    /// Whether its rows are facts: those that count, or those that were replaced.
    pub(crate) fn has_facts(self) -> bool {
        match self {
            LakeTable::Facts | LakeTable::FactsCorrected => true,
            LakeTable::Tenants
            | LakeTable::Attributes
            | LakeTable::Entities
            | LakeTable::Keyframes => false,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            LakeTable::Tenants => "tenants",
            LakeTable::Attributes => "attributes",
            LakeTable::Entities => "entities",
            LakeTable::Facts => "facts",
            LakeTable::FactsCorrected => "facts_corrected",
            LakeTable::Keyframes => "keyframes",
        }
    }

    /// Where it is, below where the tables are.
    pub(crate) fn folder(self, root: &str) -> String {
        format!("{root}/{}", self.name())
    }

    /// Its columns, which are numbered from 1 in this order.
    pub(crate) fn columns(self) -> &'static [Column] {
        match self {
            LakeTable::Tenants => TENANTS,
            LakeTable::Attributes => ATTRIBUTES,
            LakeTable::Entities => ENTITIES,
            LakeTable::Facts | LakeTable::FactsCorrected => FACTS,
            LakeTable::Keyframes => KEYFRAMES,
        }
    }

    /// How rows are divided into files: the name of the part, the column, and what is made of its value.
    fn partition(self) -> &'static [(&'static str, &'static str, Transform)] {
        match self {
            LakeTable::Tenants | LakeTable::Attributes => &[],
            LakeTable::Entities => &[(
                "tenant_id_bucket",
                "tenant_id",
                Transform::Bucket(TENANT_BUCKETS),
            )],
            LakeTable::Facts | LakeTable::FactsCorrected => &[
                ("observed_at_day", "observed_at", Transform::Day),
                (
                    "tenant_id_bucket",
                    "tenant_id",
                    Transform::Bucket(TENANT_BUCKETS),
                ),
            ],
            LakeTable::Keyframes => &[
                ("at_day", "at", Transform::Day),
                (
                    "tenant_id_bucket",
                    "tenant_id",
                    Transform::Bucket(TENANT_BUCKETS),
                ),
            ],
        }
    }

    /// The order of rows in a file.
    pub(crate) fn order(self) -> &'static [&'static str] {
        match self {
            LakeTable::Tenants => &["tenant_id"],
            LakeTable::Attributes => &["tenant_id", "attribute_id"],
            LakeTable::Entities => &["tenant_id", "entity_id"],
            LakeTable::Facts | LakeTable::FactsCorrected => &[
                "tenant_id",
                "attribute_id",
                "entity_id",
                "observed_at",
                "seq",
            ],
            LakeTable::Keyframes => &["tenant_id", "entity_id", "attribute_id", "at"],
        }
    }

    /// The number of a column.
    pub(crate) fn number(self, name: &str) -> Option<i32> {
        let place = self.columns().iter().position(|column| column.name == name);
        place.and_then(|place| i32::try_from(place + 1).ok())
    }

    /// The columns as Arrow has them, with the numbers by which readers find them.
    pub(crate) fn arrow_schema(self) -> Result<ArrowSchemaRef, LakeError> {
        let schema = self.schema()?;
        let arrow = schema_to_arrow_schema(&schema);
        let arrow = arrow.map_err(LakeError::table("describing the columns", self.name()))?;
        Ok(Arc::new(arrow))
    }

    fn schema(self) -> Result<Schema, LakeError> {
        let mut number = 0;
        let fields = self.columns().iter().map(|column| {
            number += 1;
            let kind = match column.kind {
                Kind::Int => PrimitiveType::Int,
                Kind::Long => PrimitiveType::Long,
                Kind::Double => PrimitiveType::Double,
                Kind::Decimal => PrimitiveType::Decimal {
                    precision: DECIMAL_DIGITS,
                    scale: DECIMAL_PLACES,
                },
                Kind::Text => PrimitiveType::String,
                Kind::Bool => PrimitiveType::Boolean,
                Kind::Time => PrimitiveType::Timestamptz,
                Kind::Uuid => PrimitiveType::Uuid,
            };
            let field = NestedField::new(
                number,
                column.name,
                Type::Primitive(kind),
                column.is_required,
            );
            Arc::new(field.with_doc(column.about))
        });
        let schema = Schema::builder().with_fields(fields).build();
        schema.map_err(LakeError::table("describing the columns", self.name()))
    }

    /// The table before its first row.
    pub(crate) fn create(self, location: String) -> Result<TableMetadata, LakeError> {
        const STEP: &str = "describing the beginning";
        let fault = LakeError::table(STEP, self.name());
        let number = |name: &str| self.number(name).unwrap_or_default();
        let parts = self.partition().iter();
        let parts = parts.map(|(name, column, transform)| {
            UnboundPartitionField::builder()
                .source_id(number(column))
                .name((*name).to_owned())
                .transform(*transform)
                .build()
        });
        let partition = UnboundPartitionSpec::builder()
            .add_partition_fields(parts)
            .map_err(&fault)?
            .build();
        let order = self.order().iter().map(|column| {
            SortField::builder()
                .source_id(number(column))
                .transform(Transform::Identity)
                .direction(SortDirection::Ascending)
                .null_order(NullOrder::First)
                .build()
        });
        let order = SortOrder::builder()
            .with_fields(order.collect::<Vec<_>>())
            .build_unbound()
            .map_err(&fault)?;
        let properties = HashMap::from([
            (
                "write.parquet.compression-codec".to_owned(),
                "zstd".to_owned(),
            ),
            (
                "write.metadata.previous-versions-max".to_owned(),
                "10".to_owned(),
            ),
        ]);
        let creation = TableCreation::builder()
            .name(self.name().to_owned())
            .location(location)
            .schema(self.schema()?)
            .partition_spec(partition)
            .sort_order(order)
            .properties(properties)
            .format_version(FormatVersion::V2)
            .build();
        let built = TableMetadataBuilder::from_table_creation(creation)
            .map_err(&fault)?
            .assign_uuid(Uuid::new_v4())
            .build()
            .map_err(&fault)?;
        Ok(built.metadata)
    }
}
