//! The OpenAPI document: what the handlers say of themselves, and what is true of all of them.

use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{
    AllOfBuilder, ComponentsBuilder, ContentBuilder, Header, HeaderBuilder, Info, ObjectBuilder,
    OpenApi, Ref, RefOr, Required, ResponseBuilder, Schema, Type,
};
use utoipa::{PartialSchema, ToSchema};

use crate::changes;
use crate::influx::{V1_PATH, V1Error, V2_PATH, V2Error};
use crate::problem::ProblemBody;
use crate::routes::operations;

/// The name of the key in the document.
pub(crate) const KEY: &str = "key";

/// What a client is to try again later.
const TEMPORARY: [(&str, &str); 2] = [
    (
        "429",
        "Too many values, bytes or requests of the tenant, or too many failed attempts",
    ),
    ("503", "The server or the database has too much to do"),
];

/// Reads whose question is a body.
const READS_BY_POST: [&str; 2] = ["/v1/entities/search", "/v1/history/query"];

/// What every read may be asked of the freshness of its answer.
const READ_OPTIONS: [(&str, ParameterIn, &str); 3] = [
    (
        "consistency",
        ParameterIn::Query,
        "strong, session, eventual or analytics; strong where nothing is said, session where a token is sent. At analytics, histories and as_of are read from the lake where there is one; other reads may be five minutes old",
    ),
    (
        "max_lag",
        ParameterIn::Query,
        "How far behind the source of the answer may be, such as 3s",
    ),
    (
        "X-Consistency-Token",
        ParameterIn::Header,
        "What the answer has to hold at least: the token of an earlier answer",
    ),
];

fn retry_after() -> Header {
    HeaderBuilder::new()
        .schema(Some(ObjectBuilder::new().schema_type(Type::Integer)))
        .description(Some("Seconds until it may be tried again"))
        .build()
}

/// Adds what every operation has: its errors, and the tenant that an administrator names.
pub(crate) fn complete(mut document: OpenApi) -> OpenApi {
    document.info = Info::new("sheaf", env!("CARGO_PKG_VERSION"));
    document.info.description =
        Some("Entities, their attributes and their history, over PostgreSQL.".to_owned());
    let mut schemas = Vec::new();
    ProblemBody::schemas(&mut schemas);
    schemas.push((ProblemBody::name().into_owned(), ProblemBody::schema()));
    let existing = document.components.take().unwrap_or_default();
    let components = schemas.into_iter().fold(
        ComponentsBuilder::from(existing),
        |components, (name, schema)| components.schema(name, schema),
    );
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    document.components = Some(components.security_scheme(KEY, scheme).build());
    for (path, item) in &mut document.paths.paths {
        let (form, media_type) = match path.as_str() {
            V1_PATH => (V1Error::name(), "application/json"),
            V2_PATH => (V2Error::name(), "application/json"),
            _ => (ProblemBody::name(), "application/problem+json"),
        };
        let refusal = |description: &str| {
            let content = ContentBuilder::new()
                .schema(Some(Ref::from_schema_name(form.as_ref())))
                .build();
            ResponseBuilder::new()
                .description(description)
                .content(media_type, content)
        };
        for operation in operations(item) {
            let responses = &mut operation.responses.responses;
            if !matches!(path.as_str(), V1_PATH | V2_PATH) {
                responses.insert("default".to_owned(), refusal("A problem").build().into());
            }
            let needs_key = operation
                .security
                .as_ref()
                .is_some_and(|needed| !needed.is_empty());
            if needs_key {
                for (status, description) in TEMPORARY {
                    let response = refusal(description).header("Retry-After", retry_after());
                    responses.insert(status.to_owned(), response.build().into());
                }
                let what = "The tenant that an administrator acts for";
                add_parameter(operation, "X-Tenant", ParameterIn::Header, what);
            }
        }
        let post = item.post.as_mut();
        let reads_by_post = post.filter(|_| READS_BY_POST.contains(&path.as_str()));
        let get = item.get.as_mut();
        let get = get.filter(|_| path.starts_with("/v1/") && path != changes::PATH);
        for read in get.into_iter().chain(reads_by_post) {
            for (name, place, what) in READ_OPTIONS {
                add_parameter(read, name, place, what);
            }
        }
    }
    document
}

fn add_parameter(operation: &mut Operation, name: &str, place: ParameterIn, what: &str) {
    let parameter = ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(Required::False)
        .description(Some(what))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)));
    operation
        .parameters
        .get_or_insert_default()
        .push(RefOr::T(parameter.build()));
}

/// The schema of an object that has a name, further members of its own, and those of `T`.
pub(crate) fn named_with<T: ToSchema>(own: ObjectBuilder) -> RefOr<Schema> {
    let own = own
        .property("name", ObjectBuilder::new().schema_type(Type::String))
        .required("name");
    let rest = Ref::from_schema_name(T::name());
    RefOr::T(Schema::from(AllOfBuilder::new().item(own).item(rest)))
}
