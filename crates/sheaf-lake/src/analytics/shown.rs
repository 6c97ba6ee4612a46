//! Which rows of history a question is shown: those that are not older than the retention of their attribute, or else of the tenant.

use std::collections::BTreeMap;

use datafusion::logical_expr::{Expr, col, lit};
use datafusion::scalar::ScalarValue;
use sheaf_model::{AttributeId, Timestamp};

use crate::facts::UTC;
use crate::schema::LakeTable;

/// From when on a tenant's history is shown. By default all of it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownFrom {
    /// Of attributes without an instant of their own.
    pub of_tenant: Timestamp,
    /// Of those that have one.
    pub own: BTreeMap<AttributeId, Timestamp>,
}

impl Default for ShownFrom {
    fn default() -> ShownFrom {
        ShownFrom {
            of_tenant: Timestamp::MIN,
            own: BTreeMap::new(),
        }
    }
}

impl ShownFrom {
    /// What holds of the rows of a table that are shown.
    pub(super) fn of(&self, table: LakeTable) -> Vec<Expr> {
        let column = match table {
            LakeTable::Facts | LakeTable::FactsCorrected => "observed_at",
            LakeTable::Keyframes => "at",
            LakeTable::Tenants | LakeTable::Attributes | LakeTable::Entities => return Vec::new(),
        };
        let own = self.own.values().copied();
        let first = own.fold(self.of_tenant, Timestamp::min);
        let last = self
            .own
            .values()
            .copied()
            .fold(self.of_tenant, Timestamp::max);
        let mut shown = Vec::new();
        // By itself: files are passed over by it.
        if first > Timestamp::MIN {
            shown.push(col(column).gt_eq(instant(first)));
        }
        if first == last {
            return shown;
        }
        // A row that names no attribute is shown as long as any.
        let mut each = col("attribute_id").is_null();
        let mut by_time: BTreeMap<Timestamp, Vec<Expr>> = BTreeMap::new();
        for (id, from) in &self.own {
            by_time.entry(*from).or_default().push(lit(id.0));
        }
        let own: Vec<Expr> = self.own.keys().map(|id| lit(id.0)).collect();
        for (from, ids) in by_time {
            let of_them = col("attribute_id").in_list(ids, false);
            each = each.or(of_them.and(col(column).gt_eq(instant(from))));
        }
        let others = col("attribute_id").in_list(own, true);
        each = each.or(others.and(col(column).gt_eq(instant(self.of_tenant))));
        shown.push(each);
        shown
    }
}

fn instant(at: Timestamp) -> Expr {
    let zone = Some(UTC.into());
    lit(ScalarValue::TimestampMicrosecond(
        Some(at.as_micros()),
        zone,
    ))
}
