//! How far back a tenant's history is shown: a policy counts from the moment that it is set, whatever is still stored.
//!
//! What is current is shown however old it is: entities as they are, or as they were, are no history.

use sheaf_model::Timestamp;
use sheaf_store::catalogue::Catalogue;

/// The first instant that is shown.
pub(crate) fn shown_from(catalogue: &Catalogue, now: Timestamp) -> Timestamp {
    since(catalogue.tenant.policy.retention_micros, now)
}

fn since(retention_micros: Option<i64>, now: Timestamp) -> Timestamp {
    match retention_micros {
        Some(micros) => now.saturating_add_micros(micros.saturating_neg()),
        None => Timestamp::MIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_shown_for_as_long_as_the_policy_says_and_else_for_ever() {
        let now = Timestamp::from_micros(1_000).expect("an instant");
        for (retention, from) in [(Some(400), 600), (Some(0), 1_000), (Some(2_000), -1_000)] {
            let from = Timestamp::from_micros(from).expect("an instant");
            assert_eq!(since(retention, now), from, "{retention:?}");
        }
        assert_eq!(since(Some(i64::MAX), now), Timestamp::MIN);
        assert_eq!(since(None, now), Timestamp::MIN);
    }
}
