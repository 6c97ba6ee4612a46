//! Pages: their bounds, their cursors where the server holds the whole list, and the link to the next.

use axum::http::{HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, http::HeaderMap};
use serde::Serialize;
use sheaf_model::{TenantId, Timestamp};
use sheaf_query::cursor::{Binding, QueryDescription, QueryDigest};

use crate::params::Params;
use crate::problem::Problem;
use crate::state::AppState;

const ITEMS_DEFAULT: u32 = 100;
const ITEMS_MAX: u32 = 1_000;
/// A link longer than this would be refused as a header by common clients; the cursor is in the body all the same.
const LINK_BYTES_MAX: usize = 7 * 1024;

/// A page as it is sent.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct PageBody<T> {
    /// The items, in order.
    pub(crate) items: Vec<T>,
    /// Where the next page begins; null at the end.
    pub(crate) next_cursor: Option<String>,
}

/// Takes the number of items.
pub(crate) fn take_limit(params: &mut Params) -> Result<u32, Problem> {
    let limit = params.take_as("limit", "1 to 1000", limit)?;
    Ok(limit.unwrap_or(ITEMS_DEFAULT))
}

fn limit(text: &str) -> Option<u32> {
    text.parse()
        .ok()
        .filter(|limit| (1..=ITEMS_MAX).contains(limit))
}

/// Checks a number of items that came in a body.
pub(crate) fn check_limit(given: Option<u64>) -> Result<u32, Problem> {
    let Some(items) = given else {
        return Ok(ITEMS_DEFAULT);
    };
    u32::try_from(items)
        .ok()
        .filter(|items| (1..=ITEMS_MAX).contains(items))
        .ok_or_else(|| Problem::invalid("limit", "expected 1 to 1000"))
}

/// A list that is paged by one text, such as a name.
pub(crate) struct PagedList {
    tenant: TenantId,
    query: QueryDigest,
    now: Timestamp,
    /// Items of a page.
    pub(crate) limit: usize,
    /// The page begins after this.
    pub(crate) after: Option<String>,
}

impl PagedList {
    /// Takes limit and cursor. `parts` are what else decides the items.
    pub(crate) fn take(
        params: &mut Params,
        state: &AppState,
        tenant: TenantId,
        route: &str,
        parts: &[Option<&str>],
    ) -> Result<PagedList, Problem> {
        let now = Timestamp::now();
        let limit = usize::try_from(take_limit(params)?).expect("a thousand fits");
        let mut description = QueryDescription::new(route);
        for part in parts {
            description.add_option(*part);
        }
        let query = description.digest();
        let mut list = PagedList {
            tenant,
            query,
            now,
            limit,
            after: None,
        };
        if let Some(text) = params.take("cursor")? {
            list.after = list.binding(state).decode(&text, 1)?.pop().flatten();
        }
        Ok(list)
    }

    /// The page of items that begin where it begins, one more than it holds where there are more.
    pub(crate) fn respond<T: Serialize>(
        &self,
        state: &AppState,
        uri: &Uri,
        headers: HeaderMap,
        mut items: Vec<T>,
        key: impl Fn(&T) -> String,
    ) -> Response {
        let has_more = items.len() > self.limit;
        items.truncate(self.limit);
        let last_key = items.last().filter(|_| has_more).map(key);
        self.respond_before(state, uri, headers, items, last_key)
    }

    /// The page of these items; where others follow, the key of its last item.
    pub(crate) fn respond_before<T: Serialize>(
        &self,
        state: &AppState,
        uri: &Uri,
        headers: HeaderMap,
        items: Vec<T>,
        last_key: Option<String>,
    ) -> Response {
        let next_cursor = last_key.and_then(|key| self.binding(state).encode(&[Some(key)]));
        let page = PageBody { items, next_cursor };
        respond(uri, headers, &page, page.next_cursor.as_deref())
    }

    fn binding<'a>(&self, state: &'a AppState) -> Binding<'a> {
        Binding {
            tenant: self.tenant,
            query: self.query,
            now: self.now,
            signing_key: &state.settings.signing_key,
        }
    }
}

/// A page with its headers.
pub(crate) fn respond<T: Serialize>(
    uri: &Uri,
    headers: HeaderMap,
    page: &T,
    next_cursor: Option<&str>,
) -> Response {
    let mut response = (headers, Json(page)).into_response();
    if let Some(link) = next_cursor.and_then(|cursor| next_link(uri, cursor)) {
        response.headers_mut().insert(header::LINK, link);
    }
    response
}

/// The same request with the next cursor.
fn next_link(uri: &Uri, cursor: &str) -> Option<HeaderValue> {
    let others = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.starts_with("cursor="));
    let mut target = format!("<{}?", uri.path());
    for pair in others {
        target.push_str(pair);
        target.push('&');
    }
    target.push_str("cursor=");
    target.push_str(cursor);
    target.push_str(">; rel=\"next\"");
    (target.len() <= LINK_BYTES_MAX)
        .then(|| HeaderValue::from_str(&target).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_link_is_the_same_request_with_another_cursor() {
        let uri = Uri::from_static("/v1/entities?limit=2&cursor=c1.old&type=a%26b");
        let link = next_link(&uri, "c1.new").expect("short enough");
        assert_eq!(
            link,
            "</v1/entities?limit=2&type=a%26b&cursor=c1.new>; rel=\"next\""
        );
    }

    #[test]
    fn a_page_holds_one_to_a_thousand_items() {
        for (text, expected) in [
            ("1", Some(1)),
            ("1000", Some(1000)),
            ("0", None),
            ("1001", None),
            ("-1", None),
            ("x", None),
        ] {
            assert_eq!(limit(text), expected, "{text}");
        }
    }
}
