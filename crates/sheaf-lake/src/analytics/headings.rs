//! What the columns of an answer are called where the question does not say: as PostgreSQL calls them, by the function or the column.
//! Pure.

use datafusion::sql::sqlparser::ast::{Expr, SelectItem, SetExpr, Statement};
use sheaf_export::Column;

/// What PostgreSQL calls a column that is neither.
const NAMELESS: &str = "?column?";

/// Names the columns of an answer.
pub(crate) fn name(columns: &mut [Column], headings: &Headings) {
    let Headings { before, after } = headings;
    let is_whole = match after {
        None => before.len() == columns.len(),
        Some(after) => before.len() + after.len() <= columns.len(),
    };
    if !is_whole {
        return;
    }
    let last = columns.len() - after.as_ref().map_or(0, Vec::len);
    let after = after.iter().flatten().zip(last..);
    let placed = before.iter().zip(0..).chain(after);
    for (heading, place) in placed {
        if let (Some(heading), Some(column)) = (heading, columns.get_mut(place)) {
            column.name.clone_from(heading);
        }
    }
}

/// The headings of a question; absent where the column has a name by itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Headings {
    /// Those up to the first `*`.
    before: Vec<Option<String>>,
    /// Those after the last `*`; absent where there is none.
    after: Option<Vec<Option<String>>>,
}

impl Headings {
    pub(crate) fn of(statement: &Statement) -> Headings {
        let mut headings = Headings::default();
        let Statement::Query(query) = statement else {
            return headings;
        };
        let mut body = &*query.body;
        let select = loop {
            body = match body {
                SetExpr::Select(select) => break select,
                SetExpr::Query(query) => &query.body,
                SetExpr::SetOperation { left, .. } => left,
                _ => return headings,
            };
        };
        for item in &select.projection {
            let heading = match item {
                SelectItem::UnnamedExpr(expr) => heading(expr),
                SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => {
                    headings.after = Some(Vec::new());
                    continue;
                }
                _ => None,
            };
            headings
                .after
                .as_mut()
                .unwrap_or(&mut headings.before)
                .push(heading);
        }
        headings
    }
}

fn heading(mut expr: &Expr) -> Option<String> {
    loop {
        expr = match expr {
            Expr::Identifier(_) | Expr::CompoundIdentifier(_) => return None,
            Expr::Nested(inner) | Expr::Cast { expr: inner, .. } => inner,
            Expr::Function(call) => {
                let name = call.name.0.last().and_then(|part| part.as_ident());
                let name = name.map(|name| name.value.to_lowercase());
                return Some(name.unwrap_or_else(|| NAMELESS.to_owned()));
            }
            Expr::Case { .. } => return Some("case".to_owned()),
            Expr::Extract { .. } => return Some("extract".to_owned()),
            Expr::Ceil { .. } => return Some("ceil".to_owned()),
            Expr::Floor { .. } => return Some("floor".to_owned()),
            Expr::Position { .. } => return Some("position".to_owned()),
            Expr::Substring { .. } => return Some("substring".to_owned()),
            Expr::Trim { .. } => return Some("btrim".to_owned()),
            _ => return Some(NAMELESS.to_owned()),
        };
    }
}

#[cfg(test)]
mod tests {
    use sheaf_model::AttributeType;

    use super::super::statement::parse;
    use super::*;

    #[test]
    fn columns_are_called_by_what_they_are_of() {
        for (query, columns, wanted) in [
            (
                "SELECT attribute, avg(value_float) FROM facts",
                "attribute avg(facts.value_float)",
                "attribute avg",
            ),
            ("SELECT AVG(a), avg(b) FROM facts", "x y", "avg avg"),
            (
                "SELECT sum(a) AS total, 1 + 1, (f.b) FROM facts f",
                "total x b",
                "total ?column? b",
            ),
            (
                "SELECT CAST(max(a) AS text), a::text, CASE WHEN true THEN 1 END FROM facts",
                "x a z",
                "max a case",
            ),
            (
                "SELECT count(*), f.*, lower(a) FROM facts f",
                "x a b y",
                "count a b lower",
            ),
            ("SELECT *, *, 1 FROM facts", "a b a b x", "a b a b ?column?"),
            ("SELECT max(a) FROM facts UNION SELECT 1", "x", "max"),
            ("(SELECT max(a) FROM facts)", "x", "max"),
        ] {
            let headings = Headings::of(&parse(query).expect(query));
            let columns = columns
                .split(' ')
                .map(|name| Column::of(name, AttributeType::Int));
            let mut columns: Vec<Column> = columns.collect();
            name(&mut columns, &headings);
            let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
            assert_eq!(names.join(" "), wanted, "{query}");
        }
    }
}
