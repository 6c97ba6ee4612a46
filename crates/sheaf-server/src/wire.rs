//! Forms that several answers share.

use axum::body::Bytes;
use serde::{Serialize, Serializer};
use sheaf_model::{Timestamp, Value};
use sheaf_query::EntityAnswer;

/// Names with what they stand for, as a JSON object in their order.
#[derive(Debug)]
pub(crate) struct Named<T>(pub(crate) Vec<(String, T)>);

impl<T: Serialize> Serialize for Named<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// An entity.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct EntityBody {
    /// Its type.
    #[serde(rename = "type")]
    entity_type: String,
    /// Its id within the type.
    id: String,
    /// One more at each write of the document; null for the state at an instant.
    version: Option<i64>,
    /// The instant that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    as_of: Option<Timestamp>,
    /// The time of its newest event.
    #[schema(value_type = String, format = DateTime)]
    observed_at: Timestamp,
    /// When a value last changed.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    /// Its values by name.
    #[schema(value_type = Object)]
    attributes: Named<Value>,
    /// Since when each value holds, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    times: Option<Named<Timestamp>>,
}

impl EntityBody {
    pub(crate) fn of(entity: EntityAnswer, as_of: Option<Timestamp>) -> EntityBody {
        EntityBody {
            entity_type: entity.entity_type,
            id: entity.external_id,
            version: entity.version,
            as_of,
            observed_at: entity.observed_at,
            updated_at: entity.updated_at,
            attributes: Named(entity.attributes),
            times: entity.times.map(Named),
        }
    }

    /// As it is sent.
    pub(crate) fn to_bytes(&self) -> Bytes {
        let json = serde_json::to_vec(self);
        json.expect("invariant: names are text and numbers are finite")
            .into()
    }
}
