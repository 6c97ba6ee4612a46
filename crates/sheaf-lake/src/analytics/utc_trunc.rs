//! `date_trunc` of instants that are in UTC, as all of ours are. The engine's own asks its calendar about the zone of every single
//! one before it truncates to an hour or a day, which took most of the time of whatever groups by them.

use std::any::Any;
use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_schema::{DataType, FieldRef, TimeUnit};
use datafusion::common::Result;
use datafusion::functions::datetime::date_trunc::DateTruncFunc;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    lit,
};

/// Names of the zone in which nothing has to be asked.
const UTC: [&str; 3] = ["+00:00", "UTC", "Z"];

/// The beginning of an hour, a day and so on.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct UtcTrunc {
    inner: DateTruncFunc,
}

impl UtcTrunc {
    pub(crate) fn new() -> UtcTrunc {
        UtcTrunc {
            inner: DateTruncFunc::new(),
        }
    }
}

/// The beginning of the unit that an instant is in.
pub(crate) fn truncated(unit: &str, instant: Expr) -> Expr {
    let function = Arc::new(ScalarUDF::from(UtcTrunc::new()));
    Expr::ScalarFunction(ScalarFunction::new_udf(function, vec![lit(unit), instant]))
}

/// The zone of an array of microseconds in UTC.
fn utc_of(kind: &DataType) -> Option<&Arc<str>> {
    match kind {
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if UTC.contains(&&**zone) => {
            Some(zone)
        }
        _ => None,
    }
}

impl ScalarUDFImpl for UtcTrunc {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, of: &[DataType]) -> Result<DataType> {
        self.inner.return_type(of)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let instants = match args.args.get(1) {
            Some(ColumnarValue::Array(instants)) => Arc::clone(instants),
            _ => return self.inner.invoke_with_args(args),
        };
        let Some(zone) = utc_of(instants.data_type()) else {
            return self.inner.invoke_with_args(args);
        };
        args.args[1] = ColumnarValue::Array(in_zone(&instants, None));
        Ok(match self.inner.invoke_with_args(args)? {
            ColumnarValue::Array(begun) => {
                ColumnarValue::Array(in_zone(&begun, Some(Arc::clone(zone))))
            }
            scalar @ ColumnarValue::Scalar(_) => scalar,
        })
    }

    fn output_ordering(&self, input: &[ExprProperties]) -> Result<SortProperties> {
        self.inner.output_ordering(input)
    }
}

/// The same instants: nothing is computed.
fn in_zone(instants: &ArrayRef, zone: Option<Arc<str>>) -> ArrayRef {
    let instants = instants.as_primitive::<TimestampMicrosecondType>().clone();
    Arc::new(instants.with_timezone_opt(zone))
}

#[cfg(test)]
mod tests {
    use arrow_array::TimestampMicrosecondArray;
    use arrow_schema::Field;
    use datafusion::common::ScalarValue;
    use datafusion::config::ConfigOptions;

    use super::*;

    fn called(function: &dyn ScalarUDFImpl, unit: &str, instants: &ArrayRef) -> ArrayRef {
        let kind = instants.data_type().clone();
        let field = |kind| Arc::new(Field::new("x", kind, true));
        let args = ScalarFunctionArgs {
            args: vec![
                ColumnarValue::Scalar(ScalarValue::Utf8(Some(unit.to_owned()))),
                ColumnarValue::Array(Arc::clone(instants)),
            ],
            arg_fields: vec![field(DataType::Utf8), field(kind.clone())],
            number_rows: instants.len(),
            return_field: field(kind),
            config_options: Arc::new(ConfigOptions::new()),
        };
        let begun = function.invoke_with_args(args).expect("computed");
        begun.into_array(instants.len()).expect("an array")
    }

    #[test]
    fn it_gives_what_the_engines_own_gives() {
        let instants = [
            Some(1_356_998_400_000_001),
            Some(-1),
            Some(-3_600_000_000),
            Some(-86_400_000_001),
            Some(4_102_444_800_000_000),
            None,
        ];
        for zone in [Some("+00:00"), Some("UTC"), Some("+02:00"), None] {
            let instants = TimestampMicrosecondArray::from(instants.to_vec());
            let instants = instants.with_timezone_opt(zone.map(Arc::<str>::from));
            let instants: ArrayRef = Arc::new(instants);
            for unit in [
                "second", "minute", "hour", "DAY", "week", "month", "quarter", "year",
            ] {
                let own = called(&UtcTrunc::new(), unit, &instants);
                let wanted = called(&DateTruncFunc::new(), unit, &instants);
                assert_eq!(&own, &wanted, "{unit} {zone:?}");
                assert_eq!(own.data_type(), instants.data_type());
            }
        }
    }
}
