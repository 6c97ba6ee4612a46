//! How large the expressions of a plan are once each column is replaced by what it is computed from. Planning may do that:
//! a condition moves down to where the rows come from, and takes the computations with it. A column that is computed from two of
//! the query below, which computes it from two of the one below that, doubles with every step. Pure.
//!
//! And how much text the question itself puts into every row: a literal that is a column stands in each row of a batch, and the
//! engine counts what it holds but not what it computes.

use std::collections::HashMap;

use arrow_schema::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result, ScalarValue};
use datafusion::logical_expr::{Expr, LogicalPlan, Operator};

use super::error::{Bound, QueryError};
use super::scan::BATCH_ROWS;

/// Parts of the largest expression. One that people write has some dozens, and one that a program writes a list of thousands.
const PARTS_MAX: u64 = 10_000;
/// Parts of an expression that joins texts: what it makes is so many times as long as what it is made of.
const JOINED_PARTS_MAX: u64 = 64;

/// Text of the question in the columns of a batch, those of all steps of the plan together: each of them may hold one.
const CARRIED_BYTES_MAX: u64 = 64 << 20;

/// What is known of a column.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    /// Parts of the expression that it is once all is put in place.
    parts: u64,
    /// Text of the question in each of its values, at most.
    text: u64,
}

impl Size {
    fn greatest(self, other: Size) -> Size {
        Size {
            parts: self.parts.max(other.parts),
            text: self.text.max(other.text),
        }
    }
}

/// Columns by name.
type Known<'a> = HashMap<&'a Column, Size>;

/// Refuses a plan whose expressions are too large, or that puts too much text of the question into its rows.
pub(crate) fn check(plan: &LogicalPlan) -> Result<(), QueryError> {
    let mut carried = 0;
    sizes(plan, &mut carried, 0)?;
    let rows = u64::try_from(BATCH_ROWS).unwrap_or(u64::MAX);
    if carried.saturating_mul(rows) > CARRIED_BYTES_MAX {
        return Err(QueryError::limit(Bound::Memory));
    }
    Ok(())
}

/// The size of each column that a plan gives. Of a query that stands in an expression, columns of the query around it are as long
/// as `outer`. Adds up what all steps carry.
fn sizes(plan: &LogicalPlan, carried: &mut u64, outer: u64) -> Result<Vec<Size>, QueryError> {
    let mut below: Vec<(Column, Size)> = Vec::new();
    let mut first_input = None;
    for input in plan.inputs() {
        let sizes = sizes(input, carried, outer)?;
        let columns = input.schema().columns();
        below.extend(columns.into_iter().zip(sizes.iter().copied()));
        // Of a union all inputs have the same columns.
        first_input = Some(match (first_input, plan) {
            (Some(before), LogicalPlan::Union(_)) => greatest(before, &sizes),
            (Some(before), _) => before,
            (None, _) => sizes,
        });
    }
    let known: Known<'_> = below.iter().map(|(column, size)| (column, *size)).collect();
    let mut walk = Walk {
        known: &known,
        outer: below
            .iter()
            .fold(outer, |most, (_, size)| most.max(size.text)),
        carried,
        queries: HashMap::new(),
    };
    let width = plan.schema().fields().len();
    if let LogicalPlan::Values(values) = plan {
        // They are there once, as they were written.
        let mut own = vec![Size::default(); width];
        for row in &values.values {
            for (column, expr) in own.iter_mut().zip(row) {
                *column = column.greatest(walk.size(expr)?);
            }
        }
        return Ok(own);
    }
    let mut own = Vec::new();
    for expr in plan.expressions() {
        let size = walk.size(&expr)?;
        let made = walk.made(&expr)?;
        *walk.carried = walk.carried.saturating_add(made);
        own.push(size);
    }
    let all = || below.iter().map(|(_, size)| *size).collect::<Vec<_>>();
    let mut found = match plan {
        LogicalPlan::Projection(_) | LogicalPlan::Aggregate(_) if own.len() == width => own,
        LogicalPlan::Window(_) => {
            let mut all = all();
            all.extend(own);
            padded(all, width)
        }
        LogicalPlan::Aggregate(_) => padded(own, width),
        LogicalPlan::Union(_) | LogicalPlan::SubqueryAlias(_) => {
            padded(first_input.unwrap_or_default(), width)
        }
        _ => padded(all(), width),
    };
    for (size, field) in found.iter_mut().zip(plan.schema().fields()) {
        if !is_text(field.data_type()) {
            size.text = 0;
        }
    }
    Ok(found)
}

fn is_text(kind: &DataType) -> bool {
    use DataType::{LargeUtf8, Utf8, Utf8View};
    matches!(kind, Utf8 | LargeUtf8 | Utf8View)
}

fn greatest(before: Vec<Size>, sizes: &[Size]) -> Vec<Size> {
    let pairs = before.iter().zip(sizes);
    pairs.map(|(one, other)| one.greatest(*other)).collect()
}

/// Where a plan has other columns than were worked out, each is as large as the largest.
fn padded(sizes: Vec<Size>, width: usize) -> Vec<Size> {
    if sizes.len() == width {
        return sizes;
    }
    let least = Size { parts: 1, text: 0 };
    vec![sizes.into_iter().fold(least, Size::greatest); width]
}

/// Works out what the expressions of a step of a plan are.
struct Walk<'a> {
    known: &'a Known<'a>,
    outer: u64,
    carried: &'a mut u64,
    /// Text of the question in what each query that stands in an expression gives.
    queries: HashMap<*const LogicalPlan, u64>,
}

impl Walk<'_> {
    fn size(&mut self, expr: &Expr) -> Result<Size, QueryError> {
        let (mut parts, mut joins, mut refused) = (0u64, false, None);
        let walked = expr.apply(|part| {
            parts = parts.saturating_add(1);
            match part {
                Expr::Column(column) => {
                    let size = self.known.get(column).map_or(1, |size| size.parts);
                    parts = parts.saturating_add(size);
                }
                Expr::BinaryExpr(binary) => joins |= binary.op == Operator::StringConcat,
                Expr::ScalarFunction(call) => joins |= call.name().starts_with("concat"),
                Expr::ScalarSubquery(query) => refused = self.query(&query.subquery).err(),
                Expr::Exists(exists) => refused = self.query(&exists.subquery.subquery).err(),
                Expr::InSubquery(within) => refused = self.query(&within.subquery.subquery).err(),
                _ => {}
            }
            Ok(match refused {
                Some(_) => TreeNodeRecursion::Stop,
                None => TreeNodeRecursion::Continue,
            })
        });
        if let Some(refused) = refused {
            return Err(refused);
        }
        walked.map_err(QueryError::of_planning)?;
        let most = if joins { JOINED_PARTS_MAX } else { PARTS_MAX };
        if parts > most {
            return Err(QueryError::refused(
                "the query computes too much of one value",
            ));
        }
        let text = self.text(expr)?;
        Ok(Size { parts, text })
    }

    fn query(&mut self, plan: &LogicalPlan) -> Result<(), QueryError> {
        let sizes = sizes(plan, self.carried, self.outer)?;
        let text = sizes.first().map_or(0, |size| size.text);
        self.queries.insert(std::ptr::from_ref(plan), text);
        Ok(())
    }

    /// Text of the question in each value of an expression, at most.
    fn text(&self, expr: &Expr) -> Result<u64, QueryError> {
        Ok(match expr {
            Expr::Literal(value, _) => length(value),
            Expr::Column(column) => self.known.get(column).map_or(0, |size| size.text),
            Expr::OuterReferenceColumn(..) => self.outer,
            Expr::ScalarSubquery(query) => {
                let text = self.queries.get(&std::ptr::from_ref(&*query.subquery));
                text.copied().unwrap_or_default()
            }
            Expr::BinaryExpr(binary) if binary.op != Operator::StringConcat => 0,
            Expr::Case(case) => {
                let given = case.when_then_expr.iter().map(|(_, then)| then);
                let mut most = 0;
                for given in given.chain(&case.else_expr) {
                    most = self.text(given)?.max(most);
                }
                most
            }
            Expr::ScalarFunction(call) if CHOOSING.contains(&call.name()) => {
                let mut most = 0;
                for given in &call.args {
                    most = self.text(given)?.max(most);
                }
                most
            }
            Expr::Like(_)
            | Expr::SimilarTo(_)
            | Expr::InList(_)
            | Expr::InSubquery(_)
            | Expr::Exists(_)
            | Expr::Between(_) => 0,
            other => {
                let mut all = 0u64;
                for part in parts_of(other)? {
                    all = all.saturating_add(self.text(part)?);
                }
                all
            }
        })
    }

    /// The longest texts of the question that computing an expression makes for each row. One that is only compared is made once.
    fn made(&self, expr: &Expr) -> Result<u64, QueryError> {
        let most = self.text(expr)?;
        let mut below = 0u64;
        for part in parts_of(expr)? {
            if !matches!(part, Expr::Literal(..) | Expr::Column(_)) {
                below = below.saturating_add(self.made(part)?);
            }
        }
        Ok(most.max(below))
    }
}

/// Functions that give one of their arguments.
const CHOOSING: [&str; 6] = ["coalesce", "greatest", "least", "nullif", "nvl", "nvl2"];

/// The expressions that an expression is computed from.
fn parts_of(expr: &Expr) -> Result<Vec<&Expr>, QueryError> {
    let mut parts = Vec::new();
    let walked = expr.apply_children(|part| {
        parts.push(part);
        Ok(TreeNodeRecursion::Continue)
    });
    walked.map_err(QueryError::of_planning)?;
    Ok(parts)
}

fn length(value: &ScalarValue) -> u64 {
    let text = value.try_as_str().flatten();
    text.and_then(|text| u64::try_from(text.len()).ok())
        .unwrap_or(0)
}
