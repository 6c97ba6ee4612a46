//! One attribute of a catalogue, and what is said of it.

use sheaf_model::{AttributeId, AttributeType, Timestamp};
use sheaf_pg::{JsonbRead, PgError, PgTime};
use tokio_postgres::Row;

/// Which part of the document holds an attribute's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temperature {
    /// The part without an index.
    Cold,
    /// On the way to the indexed part: written there, found in either.
    Warming,
    /// The indexed part.
    Hot,
    /// On the way out of the indexed part: written to the other, found in either.
    Cooling,
}

impl Temperature {
    const ALL: [Temperature; 4] = [
        Temperature::Cold,
        Temperature::Warming,
        Temperature::Hot,
        Temperature::Cooling,
    ];

    /// The temperature's name in every interface.
    pub fn as_str(self) -> &'static str {
        match self {
            Temperature::Cold => "cold",
            Temperature::Warming => "warming",
            Temperature::Hot => "hot",
            Temperature::Cooling => "cooling",
        }
    }

    fn parse(text: &str) -> Option<Temperature> {
        Temperature::ALL
            .into_iter()
            .find(|temperature| temperature.as_str() == text)
    }

    /// Whether new values go to the indexed part.
    pub fn writes_hot(self) -> bool {
        matches!(self, Temperature::Hot | Temperature::Warming)
    }

    /// Whether values may still lie in the other part.
    pub fn is_moving(self) -> bool {
        matches!(self, Temperature::Warming | Temperature::Cooling)
    }
}

/// Whether a value index has an attribute's values, so that ranges and orders are answered from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueIndex {
    /// It has none.
    None,
    /// Writers keep it; values from before are on their way.
    Filling,
    /// It has every value.
    Filled,
    /// Nobody keeps it any more; what is left in it means nothing.
    Emptying,
}

impl ValueIndex {
    const ALL: [ValueIndex; 4] = [
        ValueIndex::None,
        ValueIndex::Filling,
        ValueIndex::Filled,
        ValueIndex::Emptying,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            ValueIndex::None => "none",
            ValueIndex::Filling => "filling",
            ValueIndex::Filled => "filled",
            ValueIndex::Emptying => "emptying",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<ValueIndex> {
        ValueIndex::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
    }

    /// Whether writers keep it.
    pub fn is_kept(self) -> bool {
        matches!(self, ValueIndex::Filling | ValueIndex::Filled)
    }

    /// Of a new attribute, which has no values yet.
    pub(crate) fn of_new(kind: AttributeType, pin: Option<Pin>) -> ValueIndex {
        match ValueIndex::None.after(kind, pin) {
            ValueIndex::Filling => ValueIndex::Filled,
            state => state,
        }
    }

    /// Where it goes with this pin. One that is being emptied is emptied first, whatever is wanted of it then.
    pub fn after(self, kind: AttributeType, pin: Option<Pin>) -> ValueIndex {
        let has_order = match kind {
            AttributeType::Int
            | AttributeType::Float
            | AttributeType::Decimal
            | AttributeType::Text
            | AttributeType::Time => true,
            AttributeType::Bool | AttributeType::Json => false,
        };
        let is_wanted = has_order && pin == Some(Pin::Hot);
        match (self, is_wanted) {
            (ValueIndex::None, true) => ValueIndex::Filling,
            (ValueIndex::Filling | ValueIndex::Filled, false) => ValueIndex::Emptying,
            (state, _) => state,
        }
    }
}

/// A temperature that a user decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// In the indexed part.
    Hot,
    /// In the other.
    Cold,
}

impl Pin {
    /// The pin's name in every interface.
    pub fn as_str(self) -> &'static str {
        match self {
            Pin::Hot => "hot",
            Pin::Cold => "cold",
        }
    }

    /// The pin with this name.
    pub fn parse(text: &str) -> Option<Pin> {
        [Pin::Hot, Pin::Cold]
            .into_iter()
            .find(|pin| pin.as_str() == text)
    }
}

/// What a user says of an attribute beside its name and type.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    /// The unit of its values.
    pub unit: Option<String>,
    /// What it means.
    pub description: Option<String>,
    /// A JSON Schema for its values, as text.
    pub schema: Option<String>,
    /// Whether its values are personal data.
    pub pii: bool,
    /// A temperature decided by the user.
    pub pin: Option<Pin>,
    /// How long its history is kept, in microseconds; absent for as long as the tenant's.
    pub retention_micros: Option<i64>,
}

/// One attribute of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// Its number, unique in the database.
    pub id: AttributeId,
    /// Its name.
    pub name: String,
    /// What its values are.
    pub kind: AttributeType,
    /// Whether a user declared it; else it was inferred from its first value.
    pub declared: bool,
    /// What a user says of it.
    pub description: Description,
    /// Which part of the document holds its values.
    pub temperature: Temperature,
    /// Whether a value index has its values.
    pub value_index: ValueIndex,
    /// Whether a line of line protocol has carried it as a tag beside the tags that make its entity's id.
    pub series_tag: bool,
    /// When it was declared or first seen.
    pub created_at: Timestamp,
}

impl Attribute {
    /// By place: to look for fourteen names in each of 10,000 rows takes as long as to read them.
    pub(super) fn from_row(row: &Row) -> Result<Attribute, PgError> {
        const STEP: &str = "reading an attribute";
        let [
            id,
            name,
            kind,
            origin,
            unit,
            description,
            schema,
            pii,
            pin,
            temperature,
            value_index,
            series_tag,
            created_at,
            retention_micros,
        ] = std::array::from_fn(|place| place);
        let kind: &str = row.get(kind);
        let temperature: &str = row.get(temperature);
        let value_index: &str = row.get(value_index);
        Ok(Attribute {
            id: AttributeId(row.get(id)),
            name: row.get(name),
            kind: AttributeType::parse(kind).ok_or_else(|| PgError::unreadable(STEP, kind))?,
            declared: row.get::<_, &str>(origin) == "declared",
            description: Description {
                unit: row.get(unit),
                description: row.get(description),
                schema: row
                    .get::<_, Option<JsonbRead<'_>>>(schema)
                    .map(|schema| schema.0.to_owned()),
                pii: row.get(pii),
                pin: row.get::<_, Option<&str>>(pin).and_then(Pin::parse),
                retention_micros: row.get(retention_micros),
            },
            temperature: Temperature::parse(temperature)
                .ok_or_else(|| PgError::unreadable(STEP, temperature))?,
            value_index: ValueIndex::parse(value_index)
                .ok_or_else(|| PgError::unreadable(STEP, value_index))?,
            series_tag: row.get(series_tag),
            created_at: row.get::<_, PgTime>(created_at).0,
        })
    }

    /// What it takes, behind its pointer.
    pub(super) fn bytes(&self) -> usize {
        /// Two counts, and what the allocator adds.
        const SHARED_BYTES: usize = 32;
        let described = &self.description;
        let texts = [&described.unit, &described.description, &described.schema];
        let text = |text: &String| text.len() + TEXT_BYTES;
        let texts = texts.into_iter().flatten().map(text).sum::<usize>();
        size_of::<Attribute>() + SHARED_BYTES + text(&self.name) + texts
    }
}

/// What the allocator adds to a text, by its header and by rounding.
pub(super) const TEXT_BYTES: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_index_follows_the_pin_and_is_emptied_before_it_is_filled_again() {
        use ValueIndex::{Emptying, Filled, Filling, None as Nothing};
        let int = AttributeType::Int;
        let table = [
            (int, Nothing, Some(Pin::Hot), Filling),
            (int, Filling, Some(Pin::Hot), Filling),
            (int, Filled, Some(Pin::Hot), Filled),
            (int, Emptying, Some(Pin::Hot), Emptying),
            (int, Nothing, None, Nothing),
            (int, Filling, Some(Pin::Cold), Emptying),
            (int, Filled, None, Emptying),
            (int, Emptying, None, Emptying),
            (AttributeType::Bool, Nothing, Some(Pin::Hot), Nothing),
            (AttributeType::Json, Nothing, Some(Pin::Hot), Nothing),
        ];
        for (kind, before, pin, after) in table {
            assert_eq!(before.after(kind, pin), after, "{kind} {before:?} {pin:?}");
        }
        assert_eq!(ValueIndex::of_new(int, Some(Pin::Hot)), Filled);
        assert_eq!(ValueIndex::of_new(int, Some(Pin::Cold)), Nothing);
    }
}
