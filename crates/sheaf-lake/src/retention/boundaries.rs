//! Up to where facts go. Pure.

use std::collections::{BTreeMap, HashMap};

use sheaf_store::retention::RetentionBoundary;

/// Up to where facts go, by attribute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Boundaries {
    tenants: BTreeMap<i64, OfTenant>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct OfTenant {
    /// That of any attribute.
    latest: Option<i64>,
    attributes: HashMap<Option<i64>, i64>,
}

impl Boundaries {
    pub(crate) fn new(all: &[RetentionBoundary]) -> Boundaries {
        let mut tenants: BTreeMap<i64, OfTenant> = BTreeMap::new();
        for one in all {
            let of_tenant = tenants.entry(one.tenant).or_default();
            of_tenant.latest = of_tenant.latest.max(Some(one.before));
            of_tenant.attributes.insert(one.attribute, one.before);
        }
        Boundaries { tenants }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }

    /// The last of them.
    pub(crate) fn latest(&self) -> Option<i64> {
        self.tenants.values().filter_map(|one| one.latest).max()
    }

    /// The first instant of an attribute that stays; absent where all do. That of rows that name none is said of no attribute.
    pub(crate) fn of(&self, tenant: i64, attribute: Option<i64>) -> Option<i64> {
        let of_tenant = self.tenants.get(&tenant)?;
        of_tenant.attributes.get(&attribute).copied()
    }

    /// Whether a fact is before its boundary.
    pub(crate) fn is_before(&self, tenant: i64, attribute: Option<i64>, observed_at: i64) -> bool {
        let boundary = self.of(tenant, attribute);
        boundary.is_some_and(|boundary| observed_at < boundary)
    }

    /// Whether any of these tenants has a boundary at or after an instant.
    pub(super) fn reach(&self, (first, last): (i64, i64), instant: i64) -> bool {
        if first > last {
            return false;
        }
        let mut of_them = self.tenants.range(first..=last);
        of_them.any(|(_, one)| one.latest.is_some_and(|latest| instant <= latest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boundary_is_that_of_its_attribute_and_without_one_all_stays() {
        let one = |tenant, attribute, before| RetentionBoundary {
            tenant,
            attribute,
            before,
        };
        let boundaries = Boundaries::new(&[
            one(1, Some(7), 300),
            one(1, Some(8), 100),
            one(1, None, 100),
            one(5, Some(9), 200),
        ]);
        for (claim, tenant, attribute, at, wanted) in [
            ("before it", 1, Some(7), 299, true),
            ("at it", 1, Some(7), 300, false),
            ("before another's", 1, Some(8), 299, false),
            ("a row that names none", 1, None, 99, true),
            ("one that is kept for ever", 1, Some(6), -1, false),
            ("a tenant that keeps all", 2, Some(7), -1, false),
            ("whose rows that name none stay", 5, None, -1, false),
        ] {
            let is_before = boundaries.is_before(tenant, attribute, at);
            assert_eq!(is_before, wanted, "{claim}");
        }
        for (tenants, instant, wanted) in [
            ((1, 1), 300, true),
            ((1, 1), 301, false),
            ((2, 4), 0, false),
            ((2, 5), 200, true),
            ((i64::MIN, i64::MAX), 301, false),
            ((5, 1), 0, false),
        ] {
            assert_eq!(boundaries.reach(tenants, instant), wanted, "{tenants:?}");
        }
    }
}
