//! What a question may call. A session has these functions and no others: none reads anything but its arguments, and none makes
//! much of little, such as a text of a gigabyte out of a number.

use std::sync::Arc;

use datafusion::logical_expr::{AggregateUDF, ScalarUDF, WindowUDF};

use super::exact_sum::ExactSum;
use super::utc_trunc::UtcTrunc;

/// Functions of a row.
const SCALAR: &[&str] = &[
    // Numbers.
    "abs",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "cbrt",
    "ceil",
    "cos",
    "cosh",
    "cot",
    "degrees",
    "exp",
    "factorial",
    "floor",
    "gcd",
    "isnan",
    "iszero",
    "lcm",
    "ln",
    "log",
    "log10",
    "log2",
    "nanvl",
    "pi",
    "power",
    "radians",
    "round",
    "signum",
    "sin",
    "sinh",
    "sqrt",
    "tan",
    "tanh",
    "trunc",
    // Times.
    "current_date",
    "date_bin",
    "date_part",
    "date_trunc",
    "from_unixtime",
    "make_date",
    "now",
    "to_date",
    "to_timestamp",
    "to_timestamp_micros",
    "to_timestamp_millis",
    "to_timestamp_nanos",
    "to_timestamp_seconds",
    "to_unixtime",
    // Texts.
    "ascii",
    "bit_length",
    "btrim",
    "character_length",
    "chr",
    "concat",
    "concat_ws",
    "contains",
    "ends_with",
    "initcap",
    "left",
    "lower",
    "ltrim",
    "octet_length",
    "regexp_count",
    "regexp_instr",
    "regexp_like",
    "reverse",
    "right",
    "rtrim",
    "split_part",
    "starts_with",
    "strpos",
    "substr",
    "substr_index",
    "upper",
    // Anything.
    "coalesce",
    "greatest",
    "least",
    "nullif",
    "nvl",
    "nvl2",
];

/// Functions of many rows.
const AGGREGATE: &[&str] = &[
    "approx_distinct",
    "approx_median",
    "approx_percentile_cont",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar_pop",
    "covar_samp",
    "first_value",
    "grouping",
    "last_value",
    "max",
    "median",
    "min",
    "nth_value",
    "percentile_cont",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "stddev",
    "stddev_pop",
    "string_agg",
    "var",
    "var_pop",
];

/// Functions of rows beside a row.
const WINDOW: &[&str] = &[
    "cume_dist",
    "dense_rank",
    "first_value",
    "lag",
    "last_value",
    "lead",
    "nth_value",
    "ntile",
    "percent_rank",
    "rank",
    "row_number",
];

/// The functions of a row.
pub(crate) fn scalar() -> Vec<Arc<ScalarUDF>> {
    let mut all = datafusion::functions::all_default_functions();
    let own = [ScalarUDF::from(UtcTrunc::new())];
    let is_own = |name: &str| own.iter().any(|function| function.name() == name);
    all.retain(|function| SCALAR.contains(&function.name()) && !is_own(function.name()));
    all.extend(own.map(Arc::new));
    all
}

/// The functions of many rows.
pub(crate) fn aggregate() -> Vec<Arc<AggregateUDF>> {
    let mut all = datafusion::functions_aggregate::all_default_aggregate_functions();
    all.retain(|function| AGGREGATE.contains(&function.name()));
    all.push(Arc::new(AggregateUDF::from(ExactSum::new())));
    all
}

/// The functions of rows beside a row.
pub(crate) fn window() -> Vec<Arc<WindowUDF>> {
    let mut all = datafusion::functions_window::all_default_window_functions();
    all.retain(|function| WINDOW.contains(&function.name()));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_that_is_allowed_is_there() {
        let scalar = scalar();
        let aggregate = aggregate();
        let window = window();
        let names = [
            (
                SCALAR,
                scalar
                    .iter()
                    .map(|function| function.name())
                    .collect::<Vec<_>>(),
            ),
            (
                AGGREGATE,
                aggregate.iter().map(|function| function.name()).collect(),
            ),
            (
                WINDOW,
                window.iter().map(|function| function.name()).collect(),
            ),
        ];
        for (allowed, there) in names {
            let missing: Vec<_> = allowed
                .iter()
                .filter(|name| !there.contains(name))
                .collect();
            assert!(missing.is_empty(), "{missing:?}");
        }
    }
}
