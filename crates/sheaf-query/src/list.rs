//! Lists: the entities that pass a filter, in an order, page by page.
//!
//! A filter or an order on attributes is compiled for where the catalogue says that their values are, so that the version of
//! the catalogue in the search's own snapshot has to be the one that it was compiled with.

use sheaf_model::{Name, TenantId};
use sheaf_pg::{Statement, first_row};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::{Catalogue, search_version, version_of};
use sheaf_store::documents::{StoredDocument, document_of};
use sheaf_store::snapshot::{plan_page, plan_whole};
use tokio_postgres::Row;

use crate::answer::{EntityAnswer, Page, Read};
use crate::attempt::Attempt;
use crate::consistency::ReadOptions;
use crate::cursor::{Binding, QueryDescription, QueryDigest};
use crate::error::ReadError;
use crate::filter::{Expr, TypedExpr};
use crate::reader::{Reader, STATEMENT_TIME_MAX, page_limit, type_filter};
use crate::selection::{Selection, select_values};
use crate::source::Source;

mod bound;
mod estimate;
mod explain;
mod facets;
mod members;
mod order;
mod sql;
#[cfg(test)]
mod tests;
mod walk;

use bound::require_bounded;
use estimate::{ESTIMATE_EXACT_MAX, estimate};
pub use explain::{ExplainedPart, Explanation};
use facets::Facets;
pub use facets::{Facet, FacetKind, FacetQuery, HistogramBucket, Interval, Spread};
pub(crate) use members::{Member, MembersFrom, MembersOf, members};
use order::Order;
pub(crate) use order::property;
use sql::Matching;
use walk::Left;

/// What is wanted of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct ListQuery {
    /// Only entities of this type.
    pub entity_type: Option<String>,
    /// Only entities that pass this filter.
    pub filter: Option<Expr>,
    /// The order; then by id, then by type.
    pub sort: Vec<SortKey>,
    /// The attributes of each entity; absent for all.
    pub select: Option<Vec<String>>,
    /// Entities of a page, 1 to 1,000.
    pub limit: u32,
    /// Where the page before ended.
    pub cursor: Option<String>,
    /// Whether all that match are counted.
    pub count: CountMode,
    /// How the values of attributes are spread over all that match.
    pub facets: Vec<FacetQuery>,
}

/// One key of an order. Entities without a value come last, either way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SortKey {
    /// An attribute, or a property of the entity itself.
    pub name: String,
    /// Greatest first.
    pub descending: bool,
}

/// Whether all entities that match are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountMode {
    /// No.
    None,
    /// About how many: exact up to 10,000, then by a sample.
    Estimate,
    /// Exactly.
    Exact,
}

impl CountMode {
    /// The mode with this name.
    pub fn parse(text: &str) -> Option<CountMode> {
        match text {
            "none" => Some(CountMode::None),
            "estimate" => Some(CountMode::Estimate),
            "exact" => Some(CountMode::Exact),
            _ => None,
        }
    }
}

/// How a count came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountKind {
    /// An estimate was asked for.
    Estimate,
    /// Every match was counted.
    Exact,
}

impl CountKind {
    /// The kind's name in every interface.
    pub fn as_str(self) -> &'static str {
        match self {
            CountKind::Estimate => "estimate",
            CountKind::Exact => "exact",
        }
    }
}

/// How many entities match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// How it came about.
    pub kind: CountKind,
    /// How many.
    pub value: i64,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct ListAnswer {
    /// The entities, without times.
    pub page: Page<EntityAnswer>,
    /// How many match in all, where that was asked for.
    pub count: Option<Count>,
    /// How the values are spread, in the order asked for.
    pub facets: Vec<Facet>,
}

impl Reader {
    /// A page of the entities that pass a filter.
    pub async fn list(
        &self,
        scope: &TenantScope,
        query: &ListQuery,
        options: &ReadOptions,
    ) -> Result<Read<ListAnswer>, ReadError> {
        self.list_as(scope, query, options, Pace::OnePage).await
    }

    /// The same page for someone who reads all pages one after the other, and has met so many entities that the others are
    /// better met by walking on in the order than by finding all that match again.
    pub async fn list_on(
        &self,
        scope: &TenantScope,
        query: &ListQuery,
        options: &ReadOptions,
    ) -> Result<Read<ListAnswer>, ReadError> {
        self.list_as(scope, query, options, Pace::AllPages).await
    }

    async fn list_as(
        &self,
        scope: &TenantScope,
        query: &ListQuery,
        options: &ReadOptions,
        pace: Pace,
    ) -> Result<Read<ListAnswer>, ReadError> {
        let limit = page_limit(query.limit)?;
        let entity_type = type_filter(query.entity_type.as_deref())?;
        let cursor = query.cursor.as_deref();
        let mut attempt = Attempt::resumed(self, scope, options, cursor).await?;
        loop {
            let source = attempt.source().await?;
            let catalogue = attempt.catalogue();
            let result = match Plan::resolve(query, entity_type.as_ref(), limit, catalogue) {
                Ok(plan) => {
                    let asked = (query, options, pace);
                    self.list_under(&plan, &source, scope, asked).await
                }
                Err(error) => Err(error),
            };
            if let Some(answer) = attempt.judge(source, result).await? {
                return Ok(answer);
            }
        }
    }

    async fn list_under(
        &self,
        plan: &Plan<'_>,
        source: &Source,
        scope: &TenantScope,
        (query, options, pace): (&ListQuery, &ReadOptions, Pace),
    ) -> Result<ListAnswer, ReadError> {
        let binding = self.binding(scope, query.digest(), options);
        let after = match &query.cursor {
            Some(text) => Some(binding.decode(text, plan.order.key_count())?),
            None => None,
        };
        let matching = Matching {
            tenant: scope.tenant(),
            entity_type: plan.entity_type,
            filter: plan.filter.as_ref(),
        };
        let bounded = require_bounded(source, &matching, plan.catalogue).await;
        if let Err(ReadError::Unbounded { .. }) = bounded {
            // By now an index may answer what none did in a remembered catalogue.
            check_version(source, scope, plan.catalogue).await?;
        }
        bounded?;
        let rows_max = i64::from(query.limit) + 1;
        let after = after.as_deref();
        let page = match pace {
            Pace::OnePage => matching.page(&plan.order, after, rows_max),
            Pace::AllPages => matching.next_page(&plan.order, after, rows_max),
        };
        let count = match query.count {
            CountMode::None => None,
            CountMode::Estimate => Some(matching.count_to(ESTIMATE_EXACT_MAX + 1)),
            CountMode::Exact => Some(matching.count()),
        };
        let facets = (!plan.facets.is_empty()).then(|| plan.facets.statement(&matching));
        let tenant = scope.tenant();
        let mut statements = page_statements(&tenant, &page);
        if count.is_some() || facets.is_some() {
            statements.push(plan_whole());
        }
        statements.extend(count.as_ref().map(sql::Composed::statement));
        statements.extend(facets.as_ref().map(sql::Composed::statement));
        let mut rows = source.search(statements).await?;
        if plan.uses_attributes() {
            require_version(&rows[0], source, plan.catalogue)?;
        }
        let mut more = rows.iter().skip(4);
        let count = match count.as_ref().and_then(|_| more.next()) {
            Some(rows) => Some(counted(source, &matching, query.count, rows).await?),
            None => None,
        };
        let facets = match more.next() {
            Some(rows) => plan.facets.read(rows)?,
            None => Vec::new(),
        };
        let left = Left::by(&mut rows[2]);
        let left = left.and_then(|left| matching.page_left(left, &plan.order, after, rows_max));
        let rows = match left {
            Some(page) => {
                let rows = source.search(page_statements(&tenant, &page)).await?;
                require_version(&rows[0], source, plan.catalogue)?;
                rows
            }
            None => rows,
        };
        let (rows, has_more) = plan.rows(&rows[2])?;
        let next_cursor = match rows.last() {
            Some(last) if has_more => Some(plan.cursor_after(last, &binding, source)?),
            Some(_) | None => None,
        };
        let items = rows
            .into_iter()
            .map(|row| plan.item(row))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(ListAnswer {
            page: Page { items, next_cursor },
            count,
            facets,
        })
    }
}

/// The version of the catalogue, what a page is planned with, and the page.
fn page_statements<'a>(tenant: &'a TenantId, page: &'a sql::Composed) -> Vec<Statement<'a>> {
    vec![
        search_version(tenant),
        plan_page(&STATEMENT_TIME_MAX),
        page.statement(),
    ]
}

/// Fails where the catalogue is no longer the one that a query was compiled with, at the source that has answered it: a
/// replica may be behind it.
pub(crate) async fn check_version(
    source: &Source,
    scope: &TenantScope,
    catalogue: &Catalogue,
) -> Result<(), ReadError> {
    let tenant = scope.tenant();
    let rows = source.search(vec![search_version(&tenant)]).await?;
    require_version(&rows[0], source, catalogue)
}

/// The same in the transaction that has read its version.
fn require_version(rows: &[Row], source: &Source, catalogue: &Catalogue) -> Result<(), ReadError> {
    match version_of(rows)? {
        Some(version) if catalogue.is_version(source.lineage(), version) => Ok(()),
        Some(_) | None => Err(ReadError::CatalogueChanged),
    }
}

async fn counted(
    source: &Source,
    matching: &Matching<'_>,
    mode: CountMode,
    rows: &[Row],
) -> Result<Count, ReadError> {
    const STEP: &str = "counting entities";
    let row = first_row(rows, STEP)?;
    let counted: i64 = row.get("matches");
    let kind = match mode {
        CountMode::Exact => CountKind::Exact,
        CountMode::Estimate | CountMode::None => CountKind::Estimate,
    };
    if kind == CountKind::Exact || counted <= ESTIMATE_EXACT_MAX {
        return Ok(Count {
            kind,
            value: counted,
        });
    }
    Ok(Count {
        kind,
        value: estimate(source, matching, counted).await?,
    })
}

/// How the pages of a list are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// What matches is found, and then ordered.
    OnePage,
    /// By walking on in the order.
    AllPages,
}

/// A list query with its names found.
struct Plan<'a> {
    catalogue: &'a Catalogue,
    entity_type: Option<&'a str>,
    filter: Option<TypedExpr>,
    order: Order,
    selection: Selection,
    facets: Facets,
    limit: usize,
}

/// An entity as a list meets it.
struct ListRow {
    entity_type: String,
    external_id: String,
    stored: StoredDocument,
}

impl Plan<'_> {
    fn resolve<'a>(
        query: &ListQuery,
        entity_type: Option<&'a Name>,
        limit: usize,
        catalogue: &'a Catalogue,
    ) -> Result<Plan<'a>, ReadError> {
        let filter = match &query.filter {
            Some(expr) => Some(TypedExpr::resolve(expr, &|name| property(name, catalogue))?),
            None => None,
        };
        Ok(Plan {
            catalogue,
            entity_type: entity_type.map(Name::as_str),
            filter,
            order: Order::resolve(query, catalogue)?,
            selection: Selection::resolve("select", query.select.as_deref(), catalogue)?,
            facets: Facets::resolve(&query.facets, catalogue)?,
            limit,
        })
    }

    /// Whether where values lie decides what is found and in which order.
    fn uses_attributes(&self) -> bool {
        self.filter.is_some() || self.order.uses_attributes() || !self.facets.is_empty()
    }

    /// The entities of the page, and whether there are more.
    fn rows(&self, rows: &[Row]) -> Result<(Vec<ListRow>, bool), ReadError> {
        let found: i64 = rows.first().map_or(0, |row| row.get("found"));
        let mut listed = Vec::with_capacity(rows.len());
        for row in rows.iter().take(self.limit) {
            listed.push(ListRow {
                entity_type: row.get("entity_type"),
                external_id: row.get("external_id"),
                stored: document_of(row, self.catalogue)?,
            });
        }
        let has_more = usize::try_from(found).is_ok_and(|found| found > listed.len());
        Ok((listed, has_more))
    }

    /// Where the next page begins.
    fn cursor_after(
        &self,
        last: &ListRow,
        binding: &Binding<'_>,
        source: &Source,
    ) -> Result<String, ReadError> {
        let cursor = binding.encode_seen(self.order.keyset(last), source.kept_in_cursor());
        cursor.ok_or(ReadError::QueryLimit {
            detail: "the length of a value to continue from; sort by another attribute",
            source: None,
        })
    }

    fn item(&self, row: ListRow) -> Result<EntityAnswer, ReadError> {
        let StoredDocument {
            document,
            updated_at,
            ..
        } = row.stored;
        let (version, newest) = (document.version, document.newest);
        let (attributes, _) = select_values(document, &self.selection, self.catalogue)?;
        Ok(EntityAnswer {
            entity_type: row.entity_type,
            external_id: row.external_id,
            version: Some(version),
            observed_at: newest.unwrap_or(updated_at),
            updated_at,
            attributes,
            times: None,
        })
    }
}

impl ListQuery {
    fn digest(&self) -> QueryDigest {
        let mut description = QueryDescription::new("list");
        description.add_option(self.entity_type.as_deref());
        let filter = self.filter.as_ref().map(Expr::to_text);
        description.add_option(filter.as_deref());
        description.add_list(self.sort.iter().map(|key| key.name.as_str()));
        for key in &self.sort {
            description.add(if key.descending { "desc" } else { "asc" });
        }
        description.add(if self.select.is_some() {
            "these"
        } else {
            "all"
        });
        let select = self.select.as_deref().unwrap_or_default();
        description.add_list(select.iter().map(String::as_str));
        description.digest()
    }
}
