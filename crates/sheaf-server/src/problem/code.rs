//! The stable codes of errors: one table that answers and documentation are both made from.

/// What went wrong, as programs read it. Public and stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    TenantRequired,
    MalformedBody,
    MalformedJson,
    InvalidParameter,
    UnknownParameter,
    UnknownAttribute,
    InvalidFilter,
    FilterTooComplex,
    InvalidAggregate,
    InvalidCursor,
    InvalidToken,
    ForeignToken,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    NotAcceptable,
    BodyTooSlow,
    StaleTimeline,
    RequestInProgress,
    AttributeExists,
    TenantExists,
    TokenExpired,
    VersionMismatch,
    BodyTooLarge,
    UriTooLong,
    UnsupportedMediaType,
    IdempotencyKeyReused,
    AllRefused,
    BatchRefused,
    UnboundedQuery,
    QueryLimit,
    TypeImmutable,
    InvalidValue,
    RateLimited,
    QuotaExceeded,
    HeadersTooLarge,
    Internal,
    Overloaded,
    DatabaseUnavailable,
    LagExceeded,
    TokenNotReached,
    AckUnavailable,
    ChangesUnavailable,
    ArchiveUnavailable,
    StorageFull,
}

/// What the documentation says of a code.
pub(crate) struct CodeRow {
    pub(crate) code: Code,
    pub(crate) name: &'static str,
    pub(crate) status: u16,
    pub(crate) title: &'static str,
    pub(crate) explanation: &'static str,
}

const fn row(
    code: Code,
    name: &'static str,
    status: u16,
    title: &'static str,
    explanation: &'static str,
) -> CodeRow {
    CodeRow {
        code,
        name,
        status,
        title,
        explanation,
    }
}

#[rustfmt::skip]
pub(crate) const CODES: [CodeRow; 46] = [
    row(Code::TenantRequired, "tenant_required", 400, "a tenant is required", "An administrator's key opens every tenant: the header X-Tenant says which one is meant."),
    row(Code::MalformedBody, "malformed_body", 400, "the body cannot be read", "The body ended early, its compression is broken, or it is not UTF-8."),
    row(Code::MalformedJson, "malformed_json", 400, "the body is not the expected JSON", "The body is not valid JSON of the shape that the route expects, or a key stands twice."),
    row(Code::InvalidParameter, "invalid_parameter", 400, "invalid parameter", "A parameter, header or member of the body has a value that cannot be used; errors names it."),
    row(Code::UnknownParameter, "unknown_parameter", 400, "unknown parameter", "A query parameter or member of the body that the route does not have. Nothing is ignored in silence, so that a typing error is noticed."),
    row(Code::UnknownAttribute, "unknown_attribute", 400, "unknown attribute", "A filter, sort or selection names an attribute that the tenant's catalogue lacks. GET /v1/attributes lists them."),
    row(Code::InvalidFilter, "invalid_filter", 400, "invalid filter", "The filter is not CQL2, uses a part of it that is not served, or compares with a literal of another type. errors gives the byte."),
    row(Code::FilterTooComplex, "filter_too_complex", 400, "filter too complex", "The filter passes a bound on its length, depth, conditions or list elements."),
    row(Code::InvalidAggregate, "invalid_aggregate", 400, "invalid aggregate", "The aggregate is unknown or does not exist for the attribute's type."),
    row(Code::InvalidCursor, "invalid_cursor", 400, "invalid cursor", "The cursor was changed, has expired, or was made for another tenant, query or order. Begin again without one."),
    row(Code::InvalidToken, "invalid_token", 400, "invalid consistency token", "The consistency token is not one of ours or was changed."),
    row(Code::ForeignToken, "foreign_token", 400, "consistency token of another system", "The consistency token was issued by another database or for another tenant."),
    row(Code::Unauthorized, "unauthorized", 401, "no valid key", "The request carries no key, or one that is unknown, expired or revoked. Send Authorization: Bearer <key>."),
    row(Code::Forbidden, "forbidden", 403, "the key does not allow this", "The key lacks the scope, or belongs to another tenant than X-Tenant names."),
    row(Code::NotFound, "not_found", 404, "not found", "There is no such thing, or it belongs to another tenant: the answer is the same."),
    row(Code::MethodNotAllowed, "method_not_allowed", 405, "method not allowed", "The path exists, but not with this method. The header Allow lists those that do."),
    row(Code::NotAcceptable, "not_acceptable", 406, "not acceptable", "None of the media types in Accept is served here."),
    row(Code::BodyTooSlow, "body_too_slow", 408, "the body came too slowly", "Less than 10 KiB of the body came within 10 seconds, before its end. The connection is closed and nothing was stored."),
    row(Code::StaleTimeline, "stale_timeline", 409, "stale timeline", "The consistency token is of a history that the database does not continue: a failover ended it, or its own promotion was undone. Read again without it."),
    row(Code::RequestInProgress, "request_in_progress", 409, "request in progress", "The first request with this Idempotency-Key is still running. Ask again for its answer."),
    row(Code::AttributeExists, "attribute_exists", 409, "the attribute exists", "An attribute with this name and another definition exists. Its type never changes; PATCH changes the rest."),
    row(Code::TenantExists, "tenant_exists", 409, "the tenant exists", "A tenant with this name exists."),
    row(Code::TokenExpired, "token_expired", 410, "the token has expired", "The changes after the token are not kept any more. Read again what is needed, and follow from the token of that answer."),
    row(Code::VersionMismatch, "version_mismatch", 412, "version mismatch", "The entity is not as If-Match or If-None-Match demands. Read it again and decide anew."),
    row(Code::BodyTooLarge, "body_too_large", 413, "body too large", "The body, once decompressed, is larger than is accepted, or holds too many events. Split it."),
    row(Code::UriTooLong, "uri_too_long", 414, "request target too long", "The path and query are too long. Long filters go to POST /v1/entities/search."),
    row(Code::UnsupportedMediaType, "unsupported_media_type", 415, "unsupported media type", "The Content-Type or Content-Encoding is not served here. One encoding at most: gzip or zstd."),
    row(Code::IdempotencyKeyReused, "idempotency_key_reused", 422, "idempotency key reused", "The Idempotency-Key was used before with another body."),
    row(Code::AllRefused, "all_refused", 422, "every event was refused", "Nothing was stored: each event has a fault, listed in rejected and kept under /v1/rejections."),
    row(Code::BatchRefused, "batch_refused", 422, "the batch was refused", "Nothing was stored: on_error=reject was asked for and an event has a fault, listed in rejected."),
    row(Code::UnboundedQuery, "unbounded_query", 422, "unbounded query", "The query would read without bound. The hint says how to bound it."),
    row(Code::QueryLimit, "query_limit", 422, "query limit", "The query passed its bound on memory, rows or time."),
    row(Code::TypeImmutable, "type_immutable", 422, "a type never changes", "The type of an attribute is decided once. Declare another attribute."),
    row(Code::InvalidValue, "invalid_value", 422, "invalid value", "An edit has values that cannot be stored; errors names each with its code. Nothing of the edit was stored."),
    row(Code::RateLimited, "rate_limited", 429, "too many requests", "The tenant has sent more values or bytes than its rate allows, or has too many requests running at once; or too many attempts with wrong keys failed from this address. Nothing was stored. Retry-After says when to go on."),
    row(Code::QuotaExceeded, "quota_exceeded", 429, "quota exceeded", "The tenant has as many of these as it may have."),
    row(Code::HeadersTooLarge, "headers_too_large", 431, "headers too large", "The headers of the request are too large together."),
    row(Code::Internal, "internal", 500, "internal error", "Our fault. The log has the cause under the request id."),
    row(Code::Overloaded, "overloaded", 503, "overloaded", "The server has too much to do, or did not finish in time. Retry-After says when to try again; the same Idempotency-Key makes that safe."),
    row(Code::DatabaseUnavailable, "database_unavailable", 503, "database unavailable", "PostgreSQL cannot be reached or is restarting. A write may have taken effect; the same Idempotency-Key makes a retry safe."),
    row(Code::LagExceeded, "lag_exceeded", 503, "lag exceeded", "No source is as fresh as was asked for."),
    row(Code::TokenNotReached, "token_not_reached", 503, "token not reached", "No source has reached the consistency token in time."),
    row(Code::AckUnavailable, "ack_unavailable", 503, "acknowledgement unavailable", "The acknowledgement that was asked for cannot be given now: the detail says whether anything was stored. The same request again waits again, and stores nothing twice where it has an Idempotency-Key or its events have times."),
    row(Code::ChangesUnavailable, "changes_unavailable", 503, "changes are not available here", "This server does not follow the change stream: it is not configured to, another server does, or it has just begun. Ask again, or ask another server; a token stays good."),
    row(Code::ArchiveUnavailable, "archive_unavailable", 503, "archived history cannot be read", "A part of the history that was asked for is in the lake, which cannot be reached or read now, or which this server is not configured with. Nothing of it is left out in silence: ask again, or for what is later than the boundary."),
    row(Code::StorageFull, "storage_full", 507, "storage full", "The database has no room left."),
];

impl Code {
    pub(crate) fn row(self) -> &'static CodeRow {
        let known = CODES.iter().find(|row| row.code == self);
        known.expect("every code has its row, which a test checks")
    }

    /// The code as it is sent.
    pub(crate) fn as_str(self) -> &'static str {
        self.row().name
    }

    /// The status it is sent with.
    pub(crate) fn status(self) -> u16 {
        self.row().status
    }

    /// The code with this name; a name that is none of ours is our fault.
    pub(crate) fn of_name(name: &str) -> Code {
        CODES
            .iter()
            .find(|row| row.name == name)
            .map_or(Code::Internal, |row| row.code)
    }
}
