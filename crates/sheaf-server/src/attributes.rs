//! The catalogue: what a tenant's attributes are called, what they hold, and what is said of them.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use sheaf_ingest::default_temperature;
use sheaf_model::{AttributeType, Name, Timestamp};
use sheaf_pg::Access;
use sheaf_query::{Freshness, ReadOptions};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::{
    Attribute, Catalogue, Description, NewAttribute, Pin, Temperature, catalogue_of,
    declare_attribute, describe_attribute, read_catalogue,
};
use sheaf_store::snapshot::{read_snapshot, snapshot_of};

use crate::auth::Caller;
use crate::body::{SMALL_BYTES_MAX, read_json};
use crate::freshness::{read_headers, read_options, token_header};
use crate::members::Members;
use crate::page::{PageBody, PagedList};
use crate::params::{Params, Segments};
use crate::problem::{Code, Problem};
use crate::state::AppState;

pub(crate) mod definition;

use definition::{AttributeBody, DescriptionBody, NewAttributeBody};

/// Declare an attribute. The same definition again is the same attribute.
#[utoipa::path(post, path = "/v1/attributes", tag = "attributes", request_body = NewAttributeBody,
    responses((status = 201, description = "Declared", body = AttributeBody),
        (status = 200, description = "It was there, with this definition", body = AttributeBody)))]
pub(crate) async fn declare(
    State(state): State<Arc<AppState>>,
    Caller(scope): Caller,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    params.finish()?;
    let body = read_json(&headers, body, SMALL_BYTES_MAX).await?;
    let new = NewAttributeBody::read(&body)?;
    let description = new.description.apply(&Description::default());
    let before = state.catalogues.refresh(&scope).await?;
    let mut status = StatusCode::OK;
    if before.by_name(new.name.as_str()).is_none() {
        if before.attributes().len() >= state.limits.tenant_attributes_max {
            let detail = format!(
                "a tenant has at most {} attributes",
                state.limits.tenant_attributes_max
            );
            return Err(Problem::new(Code::QuotaExceeded, detail));
        }
        let attribute = NewAttribute {
            name: new.name.as_str().to_owned(),
            kind: new.kind,
            temperature: match description.pin {
                Some(Pin::Hot) => Temperature::Hot,
                Some(Pin::Cold) => Temperature::Cold,
                None => default_temperature(new.kind, before.hot_count()),
            },
        };
        if declare_attribute(
            &state.app,
            &scope,
            &attribute,
            &description,
            Timestamp::now(),
        )
        .await?
        {
            status = StatusCode::CREATED;
        }
    }
    let (catalogue, freshness) =
        catalogue_now(&state, &scope, &ReadOptions::new(None, Timestamp::now())).await?;
    let attribute = catalogue
        .by_name(new.name.as_str())
        .ok_or_else(Problem::not_found)?;
    if status == StatusCode::OK {
        same_definition(attribute, new.kind, &description)?;
    }
    let headers = token_header(freshness.position, scope.tenant(), &state);
    Ok((status, headers, Json(AttributeBody::of(attribute))).into_response())
}

fn same_definition(
    attribute: &Attribute,
    kind: AttributeType,
    description: &Description,
) -> Result<(), Problem> {
    let exists = |detail: String| Err(Problem::new(Code::AttributeExists, detail));
    if attribute.kind != kind {
        return exists(format!(
            "the attribute exists with the type {}",
            attribute.kind
        ));
    }
    let json = |schema: &Option<String>| -> Option<serde_json::Value> {
        serde_json::from_str(schema.as_deref()?).ok()
    };
    let known = &attribute.description;
    let is_same = (&known.unit, &known.description, known.pii, known.pin)
        == (
            &description.unit,
            &description.description,
            description.pii,
            description.pin,
        )
        && known.retention_micros == description.retention_micros
        && json(&known.schema) == json(&description.schema);
    if is_same {
        Ok(())
    } else {
        exists("the attribute exists with another description, which PATCH changes".to_owned())
    }
}

/// List attributes in order of name.
#[utoipa::path(get, path = "/v1/attributes", tag = "attributes",
    params(("prefix" = Option<String>, Query, description = "Only names that begin so"),
        ("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)),
    responses((status = 200, description = "A page", body = PageBody<AttributeBody>)))]
pub(crate) async fn list(
    State(state): State<Arc<AppState>>,
    Caller(scope): Caller,
    mut params: Params,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let options = read_options(&mut params, &headers, scope.tenant(), &state)?;
    let prefix = params.take("prefix")?;
    let list = PagedList::take(
        &mut params,
        &state,
        scope.tenant(),
        "attributes",
        &[prefix.as_deref()],
    )?;
    params.finish()?;
    let (catalogue, freshness) = catalogue_now(&state, &scope, &options).await?;
    let prefix = prefix.unwrap_or_default();
    let mut attributes: Vec<&Arc<Attribute>> = catalogue
        .attributes()
        .filter(|attribute| attribute.name.starts_with(&prefix))
        .filter(|attribute| {
            list.after
                .as_ref()
                .is_none_or(|after| attribute.name > *after)
        })
        .collect();
    attributes.sort_unstable_by(|one, two| one.name.cmp(&two.name));
    attributes.truncate(list.limit + 1);
    let bodies = attributes
        .into_iter()
        .map(|attribute| AttributeBody::of(attribute))
        .collect();
    let headers = read_headers(&freshness, scope.tenant(), &state);
    Ok(list.respond(&state, &uri, headers, bodies, |attribute| {
        attribute.name.clone()
    }))
}

/// Show an attribute.
#[utoipa::path(get, path = "/v1/attributes/{name}", tag = "attributes",
    params(("name" = String, Path)),
    responses((status = 200, description = "The attribute", body = AttributeBody)))]
pub(crate) async fn show(
    State(state): State<Arc<AppState>>,
    Caller(scope): Caller,
    Segments(name): Segments<String>,
    mut params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let options = read_options(&mut params, &headers, scope.tenant(), &state)?;
    params.finish()?;
    let (catalogue, freshness) = catalogue_now(&state, &scope, &options).await?;
    let attribute = require_attribute(&catalogue, &name)?;
    let headers = read_headers(&freshness, scope.tenant(), &state);
    Ok((headers, Json(AttributeBody::of(attribute))).into_response())
}

/// Describe an attribute anew. What is not named stays; a type never changes.
#[utoipa::path(patch, path = "/v1/attributes/{name}", tag = "attributes", request_body = DescriptionBody,
    params(("name" = String, Path)),
    responses((status = 200, description = "The whole attribute", body = AttributeBody)))]
pub(crate) async fn describe(
    State(state): State<Arc<AppState>>,
    Caller(scope): Caller,
    Segments(name): Segments<String>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    params.finish()?;
    let body = read_json(&headers, body, SMALL_BYTES_MAX).await?;
    let mut members = Members::read(&body)?;
    let kind = members.take_raw("type").map(str::to_owned);
    let change = DescriptionBody::take(&mut members)?;
    members.finish()?;
    apply_change(&state, &scope, &name, kind.as_deref(), &change).await?;
    let (catalogue, freshness) =
        catalogue_now(&state, &scope, &ReadOptions::new(None, Timestamp::now())).await?;
    let headers = token_header(freshness.position, scope.tenant(), &state);
    Ok((
        headers,
        Json(AttributeBody::of(require_attribute(&catalogue, &name)?)),
    )
        .into_response())
}

/// How often a change is worked out anew because the catalogue has changed meanwhile. Each such attempt means that another
/// change was made, so that few are needed unless many clients change one tenant at once.
pub(crate) const CHANGE_ATTEMPTS_MAX: usize = 8;

/// The answer to a change that was overtaken as often as that.
pub(crate) fn overtaken() -> Problem {
    Problem::new(
        Code::Overloaded,
        "others kept changing the tenant's catalogue",
    )
}

/// Changes what is said of an attribute. What others say of it at the same time is kept: the change is made only to what
/// it was worked out from.
async fn apply_change(
    state: &AppState,
    scope: &TenantScope,
    name: &str,
    kind: Option<&str>,
    change: &DescriptionBody,
) -> Result<(), Problem> {
    for _ in 0..CHANGE_ATTEMPTS_MAX {
        let before = state.catalogues.refresh(scope).await?;
        let attribute = require_attribute(&before, name)?;
        if kind.is_some_and(|kind| kind != format!("\"{}\"", attribute.kind)) {
            return Err(Problem::parameter(
                Code::TypeImmutable,
                "type",
                format!("the type is {} for good", attribute.kind),
            ));
        }
        let description = change.clone().apply(&attribute.description);
        let temperature = temperature_after(attribute, description.pin, before.hot_count());
        let value_index = attribute.value_index.after(attribute.kind, description.pin);
        let seen = before.version();
        if describe_attribute(
            &state.app,
            scope,
            attribute.id,
            &description,
            temperature,
            value_index,
            seen,
        )
        .await?
        {
            let is_set_moving = temperature.is_moving() && temperature != attribute.temperature;
            if is_set_moving || value_index != attribute.value_index {
                state.wake_upkeep.notify_one();
            }
            return Ok(());
        }
    }
    Err(overtaken())
}

/// Where an attribute goes with this pin. Values that lie elsewhere are moved in the background, and until then filters
/// look into both parts.
fn temperature_after(attribute: &Attribute, pin: Option<Pin>, hot_count: usize) -> Temperature {
    let is_hot = attribute.temperature.writes_hot();
    if pin == attribute.description.pin {
        return attribute.temperature;
    }
    let wants_hot = match pin {
        Some(Pin::Hot) => true,
        Some(Pin::Cold) => false,
        None => default_temperature(attribute.kind, hot_count - usize::from(is_hot)).writes_hot(),
    };
    match (is_hot, wants_hot) {
        (true, true) | (false, false) => attribute.temperature,
        (false, true) => Temperature::Warming,
        (true, false) => Temperature::Cooling,
    }
}

fn require_attribute<'a>(
    catalogue: &'a Catalogue,
    name: &str,
) -> Result<&'a Arc<Attribute>, Problem> {
    let name = Name::parse(name).map_err(|_| Problem::not_found())?;
    catalogue
        .by_name(name.as_str())
        .ok_or_else(Problem::not_found)
}

/// The catalogue as it is now, and how fresh that is.
async fn catalogue_now(
    state: &AppState,
    scope: &TenantScope,
    options: &ReadOptions,
) -> Result<(Arc<Catalogue>, Freshness), Problem> {
    let tenant = scope.tenant();
    let [policies, attributes] = read_catalogue(&tenant);
    let rows = scope
        .run(
            &state.app,
            Access::Read,
            &[policies, attributes, read_snapshot()],
        )
        .await?;
    let snapshot = snapshot_of(&rows[2], &state.settings)?;
    let freshness = state.reader.sources().of_primary(&snapshot, options)?;
    let catalogue = Arc::new(catalogue_of(&rows[..2])?);
    state.catalogues.remember(Arc::clone(&catalogue));
    Ok((catalogue, freshness))
}

#[cfg(test)]
mod tests {
    use sheaf_model::AttributeId;
    use sheaf_store::catalogue::ValueIndex;

    use super::*;

    fn attribute(kind: AttributeType, pin: Option<Pin>, temperature: Temperature) -> Attribute {
        Attribute {
            id: AttributeId(1),
            name: "a".to_owned(),
            kind,
            declared: true,
            description: Description {
                pin,
                ..Description::default()
            },
            temperature,
            value_index: ValueIndex::None,
            series_tag: false,
            created_at: Timestamp::MIN,
        }
    }

    #[test]
    fn a_changed_pin_sets_values_moving_and_an_unchanged_one_does_not() {
        let table = [
            (
                AttributeType::Float,
                None,
                Temperature::Cold,
                Some(Pin::Hot),
                0,
                Temperature::Warming,
            ),
            (
                AttributeType::Text,
                None,
                Temperature::Hot,
                Some(Pin::Cold),
                1,
                Temperature::Cooling,
            ),
            (
                AttributeType::Text,
                None,
                Temperature::Hot,
                Some(Pin::Hot),
                1,
                Temperature::Hot,
            ),
            (
                AttributeType::Float,
                Some(Pin::Hot),
                Temperature::Warming,
                Some(Pin::Hot),
                1,
                Temperature::Warming,
            ),
            (
                AttributeType::Float,
                Some(Pin::Hot),
                Temperature::Warming,
                None,
                1,
                Temperature::Cooling,
            ),
            (
                AttributeType::Text,
                Some(Pin::Cold),
                Temperature::Cold,
                None,
                99,
                Temperature::Warming,
            ),
            (
                AttributeType::Text,
                Some(Pin::Cold),
                Temperature::Cold,
                None,
                100,
                Temperature::Cold,
            ),
            // Its own place among the hundred is its own.
            (
                AttributeType::Text,
                Some(Pin::Hot),
                Temperature::Hot,
                None,
                100,
                Temperature::Hot,
            ),
        ];
        for (kind, before, temperature, after, hot_count, expected) in table {
            let attribute = attribute(kind, before, temperature);
            assert_eq!(
                temperature_after(&attribute, after, hot_count),
                expected,
                "{kind} {before:?} to {after:?}"
            );
        }
    }

    #[test]
    fn the_same_definition_is_the_same_whatever_the_order_of_its_schema() {
        let mut known = attribute(AttributeType::Float, None, Temperature::Cold);
        known.description.schema = Some(r#"{"minimum": -60, "maximum": 60}"#.to_owned());
        let mut sent = known.description.clone();
        sent.schema = Some(r#"{"maximum":60,"minimum":-60}"#.to_owned());
        assert!(same_definition(&known, AttributeType::Float, &sent).is_ok());
        assert!(same_definition(&known, AttributeType::Int, &sent).is_err());
        sent.unit = Some("degF".to_owned());
        assert!(same_definition(&known, AttributeType::Float, &sent).is_err());
    }
}
