//! The statement that counts facets, composed of static fragments and the filter compiler's.

use sheaf_model::{AttributeType, Value};

use super::super::sql::{Composed, Matching};
use super::{BUCKETS_MAX, Facets, Measure, Wanted};
use crate::buckets::Width;
use crate::filter::{Parameter, Parameters, Property, Reserved, attribute_value, mentions_names};

/// Bytes of all values of all facets. Values are up to 256 KiB, and nobody reads a thousand of those.
const VALUES_BYTES_MAX: i64 = 1024 * 1024;

impl Facets {
    /// Each group of each facet that is shown, with how many entities are in it and in its facet.
    ///
    /// - `matched`: what matches, with the value of each facet; not merged with what is above it (`OFFSET 0`), where
    ///   each would be taken out of its document again each time that it is named.
    /// - `keyed`: the values, or the beginnings of their intervals.
    /// - `counted`: the groups, all facets in one pass.
    /// - `ranked`: the most frequent ones first, entities without a value last.
    pub(in crate::list) fn statement(&self, matching: &Matching<'_>) -> Composed {
        let mut parameters = Parameters::default();
        let mut columns = Columns::default();
        for (place, wanted) in self.0.iter().enumerate() {
            columns.add(place, wanted, &mut parameters);
        }
        let matched = self.matched(matching, &columns.taken, &mut parameters);
        let bytes_max = parameters.push(Parameter::Int8(VALUES_BYTES_MAX));
        let Columns {
            taken: _,
            keyed,
            sets,
            facets,
            values,
            ends,
            weights,
            numbers,
            limits,
        } = columns;
        let sql = format!(
            "WITH matched AS (\
               {matched}\
             ), keyed AS (\
               SELECT {} FROM matched\
             ), counted AS (\
               SELECT CASE {} END AS facet, CASE {} END AS value, CASE {} END AS value_end, count(*) AS matches \
               FROM keyed GROUP BY GROUPING SETS ({})\
             ), ranked AS (\
               SELECT facet, value, value_end, matches, sum(matches) OVER (PARTITION BY facet)::bigint AS total, \
                 row_number() OVER (PARTITION BY facet \
                   ORDER BY value IS NULL, CASE {} END DESC, CASE {} END, value COLLATE \"C\") AS place \
               FROM counted\
             ), shown AS (\
               SELECT *, sum(octet_length(value)) OVER () AS bytes FROM ranked \
               WHERE value IS NULL OR place <= CASE {} END\
             ) \
             SELECT facet, CASE WHEN bytes <= {bytes_max} THEN value END AS value, value_end, value IS NULL AS is_missing, \
               matches, total FROM shown ORDER BY facet, place",
            keyed.join(", "),
            facets.join(" "),
            values.join(" "),
            ends.join(" "),
            sets.join(", "),
            weights.join(" "),
            numbers.join(" "),
            limits.join(" "),
        );
        Composed::new("counting facets", sql, parameters)
    }

    /// What matches, with the values of each facet. Names are read where they matter and not before the values were taken
    /// out of the documents: a join would carry whole documents. Where a type is all that matters of them and the tenant has
    /// no other, they are not read.
    fn matched(
        &self,
        matching: &Matching<'_>,
        taken: &[String],
        parameters: &mut Parameters,
    ) -> String {
        let taken = taken.join(", ");
        let names_matter = self.0.iter().any(|wanted| wanted.property.is_of_names())
            || matching.filter.is_some_and(mentions_names);
        if names_matter {
            return format!("SELECT {taken} {} OFFSET 0", matching.matching(parameters));
        }
        let documents = matching.documents(parameters);
        let Some(entity_type) = matching.entity_type else {
            return format!("SELECT {taken} {documents} OFFSET 0");
        };
        let tenant = parameters.push(Parameter::Int8(matching.tenant.0));
        let entity_type = parameters.push(Parameter::Text(entity_type.to_owned()));
        let places: Vec<String> = (0..self.0.len()).map(|place| format!("t{place}")).collect();
        let places = places.join(", ");
        // First and last in the order that the index on names has: the planner, which knows of types in all tenants alone, would
        // read names of others for an EXISTS.
        let end = |direction| {
            format!(
                "(SELECT n.entity_type FROM sheaf.entities n WHERE n.tenant_id = {tenant} \
                 ORDER BY n.entity_type{direction} LIMIT 1) <> {entity_type}"
            )
        };
        let (first, last) = (end(""), end(" DESC"));
        format!(
            "SELECT {places} FROM (\
               WITH types AS MATERIALIZED (SELECT coalesce({first} OR {last}, false) AS are_several) \
               SELECT {taken} {documents} AND NOT (SELECT are_several FROM types) \
               UNION ALL \
               SELECT {places} FROM sheaf.entities e JOIN (\
                 SELECT d.tenant_id, d.entity_id, {taken} {documents} OFFSET 0\
               ) d ON d.tenant_id = e.tenant_id AND d.entity_id = e.entity_id \
               WHERE e.tenant_id = {tenant} AND e.entity_type = {entity_type} AND (SELECT are_several FROM types)\
             ) typed OFFSET 0"
        )
    }
}

/// The fragments of the statement, one of each for each facet.
#[derive(Default)]
struct Columns {
    taken: Vec<String>,
    keyed: Vec<String>,
    sets: Vec<String>,
    facets: Vec<String>,
    values: Vec<String>,
    ends: Vec<String>,
    weights: Vec<String>,
    numbers: Vec<String>,
    limits: Vec<String>,
}

impl Columns {
    fn add(&mut self, place: usize, wanted: &Wanted, parameters: &mut Parameters) {
        let when = format!("WHEN grouping(v{place}) = 0 THEN");
        let is_number = matches!(
            wanted.property.kind(),
            AttributeType::Int | AttributeType::Float | AttributeType::Decimal
        );
        let column = format!("v{place}");
        self.taken
            .push(format!("{} AS t{place}", taken(wanted, parameters)));
        self.sets.push(format!("({column})"));
        self.facets.push(format!("{when} {place}"));
        let (keyed, value, end, order) = match &wanted.measure {
            Measure::Top { .. } => {
                let value = match wanted.property {
                    // The longest text of equal numbers is the one with the greatest scale.
                    Property::Attribute {
                        kind: AttributeType::Decimal | AttributeType::Json,
                        ..
                    } => format!("max(({column})::text COLLATE \"C\")"),
                    Property::Attribute { .. } | Property::Reserved(_) => column.clone(),
                };
                let order = if is_number { "value::numeric" } else { "NULL" };
                (format!("t{place}"), value, "NULL".to_owned(), order)
            }
            // The number of the interval: whole numbers are divided ten times as fast as exact ones, and no interval's number is
            // beyond a bigint, as its ends may be.
            Measure::Numbers {
                shown: Value::Int(width),
                ..
            } => {
                let width = parameters.push(Parameter::Int8(*width));
                let keyed = format!(
                    "t{place} / {width} - CASE WHEN t{place} % {width} < 0 THEN 1 ELSE 0 END"
                );
                let value = format!("({column}::numeric * {width})::text");
                let end = format!("(({column}::numeric + 1) * {width})::text");
                (keyed, value, end, "value::numeric")
            }
            Measure::Numbers { width, .. } => {
                let width = parameters.push(Parameter::Text(width.to_string()));
                let width = format!("{width}::numeric");
                // The remainder is exact, which a rounded quotient is not; it has the sign of the value.
                let rest = format!("mod(t{place}, {width})");
                let keyed =
                    format!("t{place} - {rest} - CASE WHEN {rest} < 0 THEN {width} ELSE 0 END");
                let value = format!("trim_scale({column})::text");
                let end = format!("trim_scale({column} + {width})::text");
                (keyed, value, end, "value::numeric")
            }
            Measure::Times { width } => {
                let width = Width::new(*width);
                let micros = parameters.push(Parameter::Int8(width.as_micros()));
                let origin = parameters.push(Parameter::Text(width.origin().to_sortable()));
                let keyed = format!(
                    "date_bin({micros} * interval '1 microsecond', t{place}, {origin}::timestamptz)"
                );
                let value = micros_of(&column);
                let end = format!("({value} + {micros})::text");
                (keyed, format!("{value}::text"), end, "value::numeric")
            }
        };
        self.keyed.push(format!("{keyed} AS {column}"));
        self.values.push(format!("{when} {value}"));
        self.ends.push(format!("{when} {end}"));
        // The intervals of a histogram are in their own order, whatever they hold.
        let (weight, limit) = match wanted.measure {
            Measure::Top { values_max } => ("matches", i64::from(values_max)),
            Measure::Numbers { .. } | Measure::Times { .. } => ("0", BUCKETS_MAX + 1),
        };
        let when = format!("WHEN facet = {place} THEN");
        self.weights.push(format!("{when} {weight}"));
        self.numbers.push(format!("{when} {order}"));
        self.limits.push(format!("{when} {limit}"));
    }
}

/// The value of a facet, of the type that it is grouped by.
fn taken(wanted: &Wanted, parameters: &mut Parameters) -> String {
    let (id, kind, temperature) = match wanted.property {
        Property::Attribute {
            id,
            kind,
            temperature,
            ..
        } => (id, kind, temperature),
        Property::Reserved(reserved) => return reserved_value(reserved, &wanted.measure),
    };
    let mut value = |operator| attribute_value(id, temperature, operator, parameters);
    match (&wanted.measure, kind) {
        (Measure::Numbers { .. }, AttributeType::Int) => format!("{}::bigint", value("->>")),
        (Measure::Numbers { .. }, _) => format!("{}::numeric", value("->>")),
        (Measure::Times { .. }, _) => format!("{}::timestamptz", value("->>")),
        // Equal in more than one text: as numbers, or as JSON.
        (Measure::Top { .. }, AttributeType::Decimal | AttributeType::Json) => value("->"),
        (
            Measure::Top { .. },
            AttributeType::Int
            | AttributeType::Float
            | AttributeType::Text
            | AttributeType::Bool
            | AttributeType::Time,
        ) => format!("{} COLLATE \"C\"", value("->>")),
    }
}

fn reserved_value(reserved: Reserved, measure: &Measure) -> String {
    let column = match reserved {
        Reserved::EntityType => return "e.entity_type".to_owned(),
        Reserved::ExternalId => return "e.external_id".to_owned(),
        Reserved::ObservedAt => "d.newest",
        Reserved::UpdatedAt => "d.updated_at",
    };
    match measure {
        Measure::Top { .. } => format!("{}::text", micros_of(column)),
        Measure::Numbers { .. } | Measure::Times { .. } => column.to_owned(),
    }
}

fn micros_of(time: &str) -> String {
    format!("(extract(epoch FROM {time}) * 1000000)::bigint")
}
