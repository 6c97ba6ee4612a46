//! About how many entities match.
//!
//! Up to 10,000 an estimate is a count. Beyond, the share of matches among some thousands of the tenant's entities is taken
//! for their share among all: of the planner's estimate, which knows how many rows a tenant has and nothing of how often a
//! condition on a document holds. With 1 match in 100 the share is within a fifth two times in three and within a half
//! always but for one time in a thousand; rarer ones, in a tenant of more than a million entities, are told less well.

use sheaf_pg::{PgError, first_row};
use tokio_postgres::Row;

use super::sql::{Composed, Matching};
use crate::error::ReadError;
use crate::filter::{Parameter, Parameters, unindexed};
use crate::source::Source;

/// Up to here an estimate is a count: counting this far costs some milliseconds.
pub(super) const ESTIMATE_EXACT_MAX: i64 = 10_000;
/// Places in the order of the entities' numbers where a sample is taken, and neighbours at each. Neighbours were often
/// created together and are alike, so that places tell more than neighbours.
const PLACES: i64 = 600;
const NEIGHBOURS: i64 = 5;

/// About how many match, which are at least so many.
pub(super) async fn estimate(
    source: &Source,
    matching: &Matching<'_>,
    at_least: i64,
) -> Result<i64, ReadError> {
    const STEP: &str = "estimating a count";
    let (total, sample) = (plan_of_total(matching), sample(matching));
    let statements = vec![total.statement(), sample.statement()];
    let rows = source.search(statements).await?;
    let total = rows_of_plan(&rows[0])?;
    let row = first_row(&rows[1], STEP)?;
    Ok(extrapolate(
        total,
        row.get("sampled"),
        row.get("matches"),
        at_least,
    ))
}

fn extrapolate(total: i64, sampled: i64, matches: i64, at_least: i64) -> i64 {
    if sampled == 0 {
        return at_least;
    }
    let share = i128::from(total) * i128::from(matches) / i128::from(sampled);
    i64::try_from(share).unwrap_or(i64::MAX).max(at_least)
}

/// The plan of reading every entity of the tenant.
fn plan_of_total(matching: &Matching<'_>) -> Composed {
    let mut parameters = Parameters::default();
    let tenant = parameters.push(Parameter::Int8(matching.tenant.0));
    let sql =
        format!("EXPLAIN SELECT e.entity_id FROM sheaf.entities e WHERE e.tenant_id = {tenant}");
    Composed::new("estimating the entities of a tenant", sql, parameters)
}

/// How many of some of the tenant's entities match. Their documents are at hand: an index would be asked about each.
fn sample(matching: &Matching<'_>) -> Composed {
    let mut parameters = Parameters::default();
    let filter = matching.filter.map(unindexed);
    let at_hand = Matching {
        filter: filter.as_ref(),
        ..*matching
    };
    let from = at_hand.matching(&mut parameters);
    let places = parameters.push(Parameter::Int8(PLACES));
    let neighbours = parameters.push(Parameter::Int8(NEIGHBOURS));
    let sql = format!(
        "WITH ends AS (\
           SELECT min(n.entity_id) AS first, max(n.entity_id) AS last FROM sheaf.entities n WHERE n.tenant_id = $1\
         ), places AS MATERIALIZED (\
           SELECT ends.first + floor(random() * (ends.last - ends.first + 1))::bigint AS place \
           FROM ends CROSS JOIN generate_series(1, {places})\
         ), sampled AS MATERIALIZED (\
           SELECT DISTINCT n.entity_id FROM places CROSS JOIN LATERAL (\
             SELECT n.entity_id FROM sheaf.entities n WHERE n.tenant_id = $1 AND n.entity_id >= places.place \
             ORDER BY n.entity_id LIMIT {neighbours}) n\
         ) \
         SELECT (SELECT count(*) FROM sampled) AS sampled, \
           (SELECT count(*) FROM sampled s CROSS JOIN LATERAL (SELECT {from} AND e.entity_id = s.entity_id OFFSET 0) m) AS matches"
    );
    Composed::new("sampling entities", sql, parameters)
}

/// The planner's estimate in the first line of a plan: `.. (cost=0.29..8.31 rows=12 width=8)`.
pub(super) fn rows_of_plan(rows: &[Row]) -> Result<i64, PgError> {
    first_line(rows, |line| {
        let (_, after) = line.split_once(" rows=")?;
        after.split(' ').next()?.parse().ok()
    })
}

/// What the planner takes the whole plan to cost, in its own units.
pub(super) fn cost_of_plan(rows: &[Row]) -> Result<f64, PgError> {
    first_line(rows, |line| {
        let (_, after) = line.split_once("..")?;
        after.split(' ').next()?.parse().ok()
    })
}

fn first_line<T>(rows: &[Row], read: impl Fn(&str) -> Option<T>) -> Result<T, PgError> {
    const STEP: &str = "reading a plan";
    let line: &str = rows
        .first()
        .map(|row| row.get(0))
        .ok_or_else(|| PgError::unreadable(STEP, "a plan"))?;
    read(line).ok_or_else(|| PgError::unreadable(STEP, "a plan's estimate"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_sample_is_the_same_share_of_all_and_no_less_than_what_was_counted() {
        for (total, sampled, matches, at_least, expected) in [
            (1_000_000, 3_000, 300, 10_001, 100_000),
            (1_000_000, 3_000, 3, 10_001, 10_001),
            (50, 3_000, 3_000, 10_001, 10_001),
            (1_000_000, 0, 0, 10_001, 10_001),
        ] {
            assert_eq!(extrapolate(total, sampled, matches, at_least), expected);
        }
    }
}
