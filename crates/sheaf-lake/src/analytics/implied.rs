//! What conditions on the beginning of an hour or a day say of the instants themselves. The bounds of files are those of instants, and
//! whoever adds up by the hour asks for hours. Pure.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3_600 * SECOND;

/// Units whose beginnings are so many microseconds apart at most.
const UNITS: [(&str, i64); 8] = [
    ("second", SECOND),
    ("minute", 60 * SECOND),
    ("hour", HOUR),
    ("day", 24 * HOUR),
    ("week", 7 * 24 * HOUR),
    ("month", 31 * 24 * HOUR),
    ("quarter", 92 * 24 * HOUR),
    ("year", 366 * 24 * HOUR),
];

/// Conditions that hold of every row for which this one holds.
pub(crate) fn implied(condition: &Expr) -> Vec<Expr> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = condition else {
        return Vec::new();
    };
    let (begun, op, at) = match (&**left, &**right) {
        (Expr::ScalarFunction(call), Expr::Literal(at, _)) => (call, Some(*op), at),
        (Expr::Literal(at, _), Expr::ScalarFunction(call)) => (call, op.swap(), at),
        _ => return Vec::new(),
    };
    let (Some((instant, unit)), Some(op)) = (truncated(begun), op) else {
        return Vec::new();
    };
    let ScalarValue::TimestampMicrosecond(Some(at), zone) = at else {
        return Vec::new();
    };
    let literal = |at| {
        Expr::Literal(
            ScalarValue::TimestampMicrosecond(Some(at), zone.clone()),
            None,
        )
    };
    // The beginning is not after the instant, and less than a unit before it.
    let from = || instant.clone().gt_eq(literal(*at));
    let until = || instant.clone().lt(literal(at.saturating_add(unit)));
    match op {
        Operator::Eq => vec![from(), until()],
        Operator::Gt | Operator::GtEq => vec![from()],
        Operator::Lt | Operator::LtEq => vec![until()],
        _ => Vec::new(),
    }
}

/// The instant whose beginning a call is, and how long what begins is at most.
fn truncated(call: &ScalarFunction) -> Option<(&Expr, i64)> {
    let [Expr::Literal(unit, _), instant @ Expr::Column(_)] = call.args.as_slice() else {
        return None;
    };
    let unit = unit.try_as_str().flatten()?.to_lowercase();
    let (_, micros) = UNITS.iter().find(|(name, _)| *name == unit)?;
    (call.name() == "date_trunc").then_some((instant, *micros))
}

#[cfg(test)]
mod tests {
    use datafusion::functions::expr_fn::date_trunc;
    use datafusion::logical_expr::{col, lit};

    use super::*;

    fn at(micros: i64) -> Expr {
        let zone = Some("+00:00".into());
        Expr::Literal(ScalarValue::TimestampMicrosecond(Some(micros), zone), None)
    }

    #[test]
    fn a_condition_on_a_beginning_bounds_the_instants() {
        let hour = || date_trunc(lit("hour"), col("t"));
        let t = || col("t");
        for (condition, wanted) in [
            (hour().gt_eq(at(HOUR)), vec![t().gt_eq(at(HOUR))]),
            (hour().gt(at(HOUR)), vec![t().gt_eq(at(HOUR))]),
            (hour().lt(at(HOUR)), vec![t().lt(at(2 * HOUR))]),
            (hour().lt_eq(at(HOUR)), vec![t().lt(at(2 * HOUR))]),
            (
                hour().eq(at(HOUR)),
                vec![t().gt_eq(at(HOUR)), t().lt(at(2 * HOUR))],
            ),
            (at(HOUR).lt(hour()), vec![t().gt_eq(at(HOUR))]),
            (
                date_trunc(lit("MONTH"), t()).lt(at(0)),
                vec![t().lt(at(31 * 24 * HOUR))],
            ),
            (hour().not_eq(at(HOUR)), vec![]),
            (date_trunc(lit("decade"), t()).lt(at(0)), vec![]),
            (date_trunc(lit("hour"), hour()).lt(at(0)), vec![]),
            (hour().lt(lit("x")), vec![]),
            (t().lt(at(HOUR)), vec![]),
            (hour().lt(at(HOUR)).or(t().gt(at(0))), vec![]),
        ] {
            assert_eq!(implied(&condition), wanted, "{condition}");
        }
    }
}
