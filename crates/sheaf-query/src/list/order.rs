//! The order of a list, as SQL and as the keyset of a cursor.

use sheaf_model::{AttributeId, AttributeType, Cell, Name, Value};
use sheaf_store::catalogue::{Catalogue, ValueIndex};

use super::{ListQuery, ListRow, SortKey};
use crate::error::ReadError;
use crate::filter::{Parameter, Parameters, Property, Reserved, attribute_value, cast_of};

/// Keys of one order. PostgreSQL compares them one by one; nobody sorts by more.
const KEYS_MAX: usize = 8;

/// A total order of entities.
#[derive(Debug)]
pub(super) struct Order {
    keys: Vec<Key>,
}

#[derive(Debug, Clone, Copy)]
struct Key {
    property: Property,
    descending: bool,
}

impl Order {
    pub(super) fn resolve(query: &ListQuery, catalogue: &Catalogue) -> Result<Order, ReadError> {
        if query.sort.len() > KEYS_MAX {
            return Err(ReadError::parameter(
                "sort",
                format!("at most {KEYS_MAX} names"),
            ));
        }
        let mut keys: Vec<Key> = Vec::new();
        for SortKey { name, descending } in &query.sort {
            let name = Name::parse(name)
                .map_err(|fault| ReadError::parameter("sort", fault.to_string()))?;
            let property =
                property(name.as_str(), catalogue).ok_or_else(|| ReadError::UnknownAttribute {
                    parameter: "sort",
                    name: name.as_str().to_owned(),
                })?;
            if property.kind() == AttributeType::Json {
                let detail = format!("{name} is json, which has no order");
                return Err(ReadError::parameter("sort", detail));
            }
            // Within equal values a second mention of the same key has nothing left to order.
            if !keys.iter().any(|key| key.property == property) {
                keys.push(Key {
                    property,
                    descending: *descending,
                });
            }
        }
        Ok(Order::total(keys, query.entity_type.is_some()))
    }

    /// Adds what tells apart entities that are equal by the keys.
    fn total(mut keys: Vec<Key>, is_one_type: bool) -> Order {
        // One id can be of several types; where the type is given, the id alone makes the order total.
        let mut ties = vec![Reserved::ExternalId];
        if !is_one_type {
            ties.push(Reserved::EntityType);
        }
        for tie in ties.into_iter().map(Property::Reserved) {
            if !keys.iter().any(|key| key.property == tie) {
                keys.push(Key {
                    property: tie,
                    descending: false,
                });
            }
        }
        Order { keys }
    }

    /// An order by reserved names.
    #[cfg(test)]
    pub(super) fn of(names: &[(&str, bool)], entity_type: Option<&str>) -> Order {
        let keys = names.iter().map(|(name, descending)| Key {
            property: Property::Reserved(Reserved::named(name).expect("a reserved name")),
            descending: *descending,
        });
        Order::total(keys.collect(), entity_type.is_some())
    }

    /// An order by an int attribute with a value index, of one type.
    #[cfg(test)]
    pub(super) fn of_indexed(id: AttributeId, descending: bool) -> Order {
        let property = Property::Attribute {
            id,
            kind: AttributeType::Int,
            temperature: sheaf_store::catalogue::Temperature::Hot,
            is_indexed: true,
        };
        let key = Key {
            property,
            descending,
        };
        Order::total(vec![key], true)
    }

    /// Whether the order reads the documents' attributes, whose place depends on the catalogue.
    pub(super) fn uses_attributes(&self) -> bool {
        self.keys.iter().any(|key| match key.property {
            Property::Attribute { .. } => true,
            Property::Reserved(_) => false,
        })
    }

    /// Whether it is that of the ids within a type, which an index has.
    pub(super) fn is_by_id(&self) -> bool {
        let [key] = self.keys.as_slice() else {
            return false;
        };
        key.property == Property::Reserved(Reserved::ExternalId) && !key.descending
    }

    pub(super) fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// The keys as columns `k0`, `k1`, of the tables `e` and `d`.
    pub(super) fn columns(&self, parameters: &mut Parameters) -> String {
        let columns: Vec<String> = self
            .keys
            .iter()
            .enumerate()
            .map(|(place, key)| format!("{} AS k{place}", key.value(parameters)))
            .collect();
        columns.join(", ")
    }

    /// The names of those columns.
    pub(super) fn names(&self) -> String {
        let names: Vec<String> = (0..self.keys.len())
            .map(|place| format!("k{place}"))
            .collect();
        names.join(", ")
    }

    /// The attribute whose value index has the order's first key, and whether greatest come first.
    pub(super) fn walked(&self) -> Option<Walked> {
        let key = self.keys.first()?;
        match key.property {
            Property::Attribute {
                id,
                kind,
                is_indexed: true,
                ..
            } => Some(Walked {
                id,
                kind,
                cast: cast_of(kind)?,
                descending: key.descending,
            }),
            Property::Attribute { .. } | Property::Reserved(_) => None,
        }
    }

    /// What follows ORDER BY, over those columns.
    pub(super) fn by(&self) -> String {
        self.by_from(0)
    }

    /// The same without the first keys, for entities that are equal by those.
    pub(super) fn by_from(&self, place: usize) -> String {
        let keys: Vec<String> = self
            .keys
            .iter()
            .enumerate()
            .skip(place)
            .map(|(place, key)| match key.descending {
                true => format!("k{place} DESC NULLS LAST"),
                false => format!("k{place}"),
            })
            .collect();
        keys.join(", ")
    }

    /// Holds for what comes after an item, over those columns.
    pub(super) fn after(&self, keyset: &[Option<String>], parameters: &mut Parameters) -> String {
        self.after_from(0, keyset, parameters)
    }

    /// The same among entities that are equal by the first keys.
    pub(super) fn after_from(
        &self,
        from: usize,
        keyset: &[Option<String>],
        parameters: &mut Parameters,
    ) -> String {
        if let Some(condition) = self.after_row(keyset, parameters) {
            return condition;
        }
        let mut condition = "FALSE".to_owned();
        let keys = self.keys.iter().zip(keyset).enumerate().skip(from);
        for (place, (key, value)) in keys.rev() {
            let is_last = place + 1 == self.keys.len();
            condition = match value {
                // Nothing comes after an absent value but other absent ones.
                None => format!("(k{place} IS NULL AND {condition})"),
                Some(value) => {
                    let value = parameters.push(Parameter::Text(value.clone()));
                    let value = format!("{value}{}", key.cast());
                    let sign = if key.descending { "<" } else { ">" };
                    let beyond = match key.property {
                        Property::Attribute { .. } => {
                            format!("k{place} {sign} {value} OR k{place} IS NULL")
                        }
                        Property::Reserved(_) => format!("k{place} {sign} {value}"),
                    };
                    if is_last {
                        format!("({beyond})")
                    } else {
                        format!("({beyond} OR (k{place} = {value} AND {condition}))")
                    }
                }
            };
        }
        condition
    }

    /// The same as one comparison of rows, which an index on the columns can begin at; where every key is always there
    /// and ascends.
    fn after_row(&self, keyset: &[Option<String>], parameters: &mut Parameters) -> Option<String> {
        let is_plain = self.keys.iter().all(|key| match key.property {
            Property::Reserved(_) => !key.descending,
            Property::Attribute { .. } => false,
        });
        let values: Option<Vec<&String>> = keyset.iter().map(Option::as_ref).collect();
        let values = values.filter(|_| is_plain)?;
        let columns: Vec<String> = (0..self.keys.len())
            .map(|place| format!("k{place}"))
            .collect();
        let values: Vec<String> = self
            .keys
            .iter()
            .zip(values)
            .map(|(key, value)| {
                let value = parameters.push(Parameter::Text(value.clone()));
                format!("{value}{}", key.cast())
            })
            .collect();
        Some(format!(
            "({}) > ({})",
            columns.join(", "),
            values.join(", ")
        ))
    }

    /// The keyset of an item.
    pub(super) fn keyset(&self, row: &ListRow) -> Vec<Option<String>> {
        self.keys
            .iter()
            .map(|key| match key.property {
                Property::Attribute { id, .. } => match row.stored.document.cells.get(&id) {
                    Some((Cell::Value(value), _)) => Some(plain(value)),
                    Some((Cell::Removed, _)) | None => None,
                },
                Property::Reserved(Reserved::EntityType) => Some(row.entity_type.clone()),
                Property::Reserved(Reserved::ExternalId) => Some(row.external_id.clone()),
                Property::Reserved(Reserved::ObservedAt) => {
                    row.stored.document.newest.map(|time| time.to_sortable())
                }
                Property::Reserved(Reserved::UpdatedAt) => {
                    Some(row.stored.updated_at.to_sortable())
                }
            })
            .collect()
    }
}

/// An attribute that a list is walked by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walked {
    pub(super) id: AttributeId,
    pub(super) kind: AttributeType,
    /// From text to what its index holds.
    pub(super) cast: &'static str,
    pub(super) descending: bool,
}

impl Key {
    fn value(&self, parameters: &mut Parameters) -> String {
        match self.property {
            Property::Reserved(Reserved::EntityType) => "e.entity_type".to_owned(),
            Property::Reserved(Reserved::ExternalId) => "e.external_id".to_owned(),
            Property::Reserved(Reserved::ObservedAt) => "d.newest".to_owned(),
            Property::Reserved(Reserved::UpdatedAt) => "d.updated_at".to_owned(),
            Property::Attribute {
                id, temperature, ..
            } => {
                let text = attribute_value(id, temperature, "->>", parameters);
                match self.cast() {
                    "" => format!("{text} COLLATE \"C\""),
                    cast => format!("{text}{cast}"),
                }
            }
        }
    }

    /// From text to what is compared. A stored time sorts as its text does.
    fn cast(&self) -> &'static str {
        match self.property {
            Property::Attribute { kind, .. } => match kind {
                AttributeType::Int | AttributeType::Float | AttributeType::Decimal => "::numeric",
                AttributeType::Bool => "::boolean",
                AttributeType::Text | AttributeType::Time | AttributeType::Json => "",
            },
            Property::Reserved(Reserved::EntityType | Reserved::ExternalId) => "",
            Property::Reserved(Reserved::ObservedAt | Reserved::UpdatedAt) => "::timestamptz",
        }
    }
}

/// A value as `->>` gives it, or equal to that as a number.
fn plain(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::Time(time) => time.to_sortable(),
        Value::Int(_) | Value::Float(_) | Value::Decimal(_) | Value::Bool(_) | Value::Json(_) => {
            let mut text = String::new();
            value.write_stored(&mut text);
            text
        }
    }
}

/// What a name stands for in filters and orders.
pub(crate) fn property(name: &str, catalogue: &Catalogue) -> Option<Property> {
    if let Some(reserved) = Reserved::named(name) {
        return Some(Property::Reserved(reserved));
    }
    let attribute = catalogue.by_name(name)?;
    Some(Property::Attribute {
        id: attribute.id,
        kind: attribute.kind,
        temperature: attribute.temperature,
        is_indexed: attribute.value_index == ValueIndex::Filled,
    })
}
