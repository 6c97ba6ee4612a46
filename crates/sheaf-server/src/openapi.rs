//! The OpenAPI document: what the handlers say of themselves, and what is true of all of them.

use utoipa::openapi::path::{ParameterBuilder, ParameterIn};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{
    AllOfBuilder, ComponentsBuilder, ContentBuilder, Info, ObjectBuilder, OpenApi, Ref, RefOr,
    Required, ResponseBuilder, Schema, Type,
};
use utoipa::{PartialSchema, ToSchema};

use crate::influx::{V1_PATH, V2_PATH};
use crate::problem::ProblemBody;
use crate::routes::operations;

/// The name of the key in the document.
pub(crate) const KEY: &str = "key";

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
        let has_own_errors = matches!(path.as_str(), V1_PATH | V2_PATH);
        for operation in operations(item) {
            if !has_own_errors {
                let content = ContentBuilder::new()
                    .schema(Some(Ref::from_schema_name("Problem")))
                    .build();
                let problem = ResponseBuilder::new()
                    .description("A problem")
                    .content("application/problem+json", content);
                operation
                    .responses
                    .responses
                    .insert("default".to_owned(), problem.build().into());
            }
            if operation
                .security
                .as_ref()
                .is_some_and(|needed| !needed.is_empty())
            {
                let tenant = ParameterBuilder::new()
                    .name("X-Tenant")
                    .parameter_in(ParameterIn::Header)
                    .required(Required::False)
                    .description(Some("The tenant that an administrator acts for"))
                    .schema(Some(ObjectBuilder::new().schema_type(Type::String)));
                operation
                    .parameters
                    .get_or_insert_default()
                    .push(RefOr::T(tenant.build()));
            }
        }
    }
    document
}

/// The schema of an object that has a name, further members of its own, and those of `T`.
pub(crate) fn named_with<T: ToSchema>(own: ObjectBuilder) -> RefOr<Schema> {
    let own = own
        .property("name", ObjectBuilder::new().schema_type(Type::String))
        .required("name");
    let rest = Ref::from_schema_name(T::name());
    RefOr::T(Schema::from(AllOfBuilder::new().item(own).item(rest)))
}
