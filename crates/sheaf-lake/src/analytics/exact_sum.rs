//! Sums of whole numbers that keep every digit. The engine's own has 64 bits and goes on from the other end when they are full.

use std::any::Any;

use arrow_schema::{DataType, FieldRef};
use datafusion::common::{Result, not_impl_err};
use datafusion::functions_aggregate::sum::Sum;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDFImpl, GroupsAccumulator, ReversedUDAF, Signature, Volatility,
};

/// Digits of the largest whole number that has 64 bits.
const INT_DIGITS: u8 = 20;

/// `sum`, of whole numbers as decimals without places.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct ExactSum {
    signature: Signature,
    sum: Sum,
}

impl ExactSum {
    pub(crate) fn new() -> ExactSum {
        ExactSum {
            signature: Signature::user_defined(Volatility::Immutable),
            sum: Sum::new(),
        }
    }
}

impl AggregateUDFImpl for ExactSum {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn name(&self) -> &str {
        self.sum.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        let [given] = given else {
            return not_impl_err!("sum takes one argument");
        };
        Ok(vec![match given {
            whole if whole.is_integer() => DataType::Decimal128(INT_DIGITS, 0),
            decimal if decimal.is_decimal() => decimal.clone(),
            float if float.is_floating() => DataType::Float64,
            DataType::Null => DataType::Float64,
            other => return not_impl_err!("sum of {other}"),
        }])
    }

    fn return_type(&self, of: &[DataType]) -> Result<DataType> {
        self.sum.return_type(of)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.sum.accumulator(args)
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        self.sum.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.sum.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        self.sum.create_groups_accumulator(args)
    }

    fn create_sliding_accumulator(
        &self,
        args: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn Accumulator>> {
        self.sum.create_sliding_accumulator(args)
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.sum.reverse_expr()
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.sum.order_sensitivity()
    }
}
