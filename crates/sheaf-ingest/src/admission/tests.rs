use proptest::prelude::*;

use super::*;

fn tenant(number: i64) -> TenantId {
    TenantId(number)
}

fn rates(values: u64, bytes: u64, requests: u32) -> TenantRates {
    TenantRates {
        values_per_second: NonZeroU64::new(values),
        bytes_per_second: NonZeroU64::new(bytes),
        requests_concurrent: NonZeroU32::new(requests).expect("a positive number"),
    }
}

fn admission(default: TenantRates) -> Admission {
    let by_tenant = BTreeMap::from([("large".to_owned(), rates(1_000_000, 1_000_000, 1_000))]);
    Admission::new(Rates { default, by_tenant }, 1_000)
}

fn reason<T>(outcome: Result<T, Throttled>) -> Option<ThrottleReason> {
    outcome.err().map(|throttled| throttled.reason)
}

#[test]
fn a_tenant_past_its_rate_is_told_when_to_come_and_others_are_not() {
    // (values and bytes charged at rates of 100 and 1,000 a second, reason, seconds to wait)
    for (values, bytes, expected) in [
        (0, 0, None),
        (200, 2_000, None),
        (300, 0, Some((ThrottleReason::Values, 1))),
        (0, 12_000, Some((ThrottleReason::Bytes, 10))),
        (300, 12_000, Some((ThrottleReason::Bytes, 10))),
        (1_500, 12_000, Some((ThrottleReason::Values, 13))),
    ] {
        let now = Instant::now();
        let admission = admission(rates(100, 1_000, 10));
        let mut permit = admission
            .admit(tenant(1), "a", None, now)
            .expect("the first");
        permit.charge_values(values, now);
        permit.charge_bytes(bytes, now);
        drop(permit);
        let expected = expected.map(|(reason, seconds)| Throttled {
            reason,
            retry_after: Duration::from_secs(seconds),
        });
        assert_eq!(
            admission.admit(tenant(1), "a", None, now).err(),
            expected,
            "{values} values, {bytes} bytes"
        );
        assert!(admission.admit(tenant(2), "b", None, now).is_ok());
        let later = now + expected.map_or(Duration::ZERO, |throttled| throttled.retry_after);
        assert!(
            admission.admit(tenant(1), "a", None, later).is_ok(),
            "the wait that was told is enough"
        );
    }
}

#[test]
fn what_a_body_is_expected_to_hold_is_charged_until_it_is_known() {
    let now = Instant::now();
    // 100 values a second, of which two seconds' worth may come at once.
    let admission = admission(rates(100, 1_000_000, 10));
    let admit = |bytes| admission.admit(tenant(1), "a", Some(bytes), now);
    // A twentieth of a value in a byte is expected of whom nothing is known.
    let first = admit(6_000).expect("nothing was spent");
    assert_eq!(reason(admit(1)), Some(ThrottleReason::Values));
    drop(first);
    let mut second = admit(6_000).expect("what was not stored is given back");
    second.charge_values(60, now);
    let third =
        admit(3_000).expect("less was stored than expected, and less is expected of the next");
    assert_eq!(reason(admit(1)), None, "60, and 127 of 3,000 bytes");
    drop(third);
}

#[test]
fn without_a_rate_nothing_is_throttled_but_requests_at_once() {
    let now = Instant::now();
    let admission = Admission::new(Rates::default(), 1_000);
    let mut permit = admission.admit(tenant(1), "a", None, now).expect("no rate");
    permit.charge_values(u64::MAX, now);
    permit.charge_bytes(usize::MAX, now);
    let most = TenantRates::default().requests_concurrent.get();
    let permits: Vec<Permit> = (1..most)
        .map(|_| {
            admission
                .admit(tenant(1), "a", None, now)
                .expect("not too many")
        })
        .collect();
    assert_eq!(
        reason(admission.admit(tenant(1), "a", None, now)),
        Some(ThrottleReason::Requests)
    );
    assert!(admission.admit(tenant(2), "b", None, now).is_ok());
    drop(permits);
    assert!(admission.admit(tenant(1), "a", None, now).is_ok());
}

#[test]
fn a_tenant_that_is_named_has_its_own_rates() {
    let now = Instant::now();
    let admission = admission(rates(1, 1, 1));
    let mut permit = admission
        .admit(tenant(1), "large", None, now)
        .expect("the first");
    permit.charge_values(1_000, now);
    assert!(admission.admit(tenant(1), "large", None, now).is_ok());
    let mut permit = admission
        .admit(tenant(2), "other", None, now)
        .expect("the first");
    assert_eq!(
        reason(admission.admit(tenant(2), "other", None, now)),
        Some(ThrottleReason::Requests)
    );
    permit.charge_values(1_000, now);
    drop(permit);
    assert_eq!(
        reason(admission.admit(tenant(2), "other", None, now)),
        Some(ThrottleReason::Values)
    );
}

#[test]
fn bodies_hold_at_most_the_memory_there_is_and_one_tenants_at_most_half() {
    let now = Instant::now();
    let admission = admission(TenantRates::default());
    let mut permits: Vec<Permit> = (1..=3)
        .map(|number| {
            admission
                .admit(tenant(number), "a", None, now)
                .expect("no rate")
        })
        .collect();
    assert_eq!(
        reason(permits[0].hold(501)),
        Some(ThrottleReason::TenantMemory)
    );
    assert!(permits[0].hold(500).is_ok());
    let mut second = admission.admit(tenant(1), "a", None, now).expect("no rate");
    assert_eq!(reason(second.hold(1)), Some(ThrottleReason::TenantMemory));
    assert!(permits[1].hold(400).is_ok());
    assert_eq!(reason(permits[2].hold(101)), Some(ThrottleReason::Memory));
    assert!(permits[2].hold(100).is_ok());
    assert_eq!(reason(permits[2].hold(1)), Some(ThrottleReason::Memory));
    permits.remove(0);
    assert!(
        second.hold(500).is_ok(),
        "what a request held is given back"
    );
}

#[test]
fn tenants_that_owe_nothing_are_forgotten_and_the_others_bounded() {
    let now = Instant::now();
    let admission = admission(rates(1, 1, 1));
    let many = i64::try_from(TENANTS_MAX).expect("a small number");
    for number in 1..=3 * many {
        drop(
            admission
                .admit(tenant(number), "a", None, now)
                .expect("nobody owes"),
        );
    }
    assert!(admission.inner.lock().tenants.len() <= TENANTS_MAX);
    for number in 1..=many {
        let mut permit = admission
            .admit(tenant(number), "a", None, now)
            .expect("once each");
        permit.charge_values(10, now);
    }
    assert_eq!(
        reason(admission.admit(tenant(many + 1), "a", None, now)),
        Some(ThrottleReason::Tenants)
    );
    let later = now + Duration::from_secs(11);
    assert!(admission.admit(tenant(many + 1), "a", None, later).is_ok());
    assert_eq!(admission.inner.lock().tenants.len(), 1);
}

proptest! {
    #[test]
    fn whatever_is_admitted_and_dropped_nothing_is_left_held(
        steps in proptest::collection::vec((1_i64..5, 0_usize..400, any::<bool>()), 0..200),
    ) {
        let now = Instant::now();
        let admission = admission(rates(u64::MAX, u64::MAX, 3));
        let mut permits: Vec<Permit> = Vec::new();
        for (number, bytes, drops) in steps {
            if let Ok(mut permit) = admission.admit(tenant(number), "a", None, now) {
                // A refusal holds nothing.
                let _ = permit.hold(bytes);
                permits.push(permit);
            }
            if drops && !permits.is_empty() {
                permits.remove(bytes % permits.len());
            }
            let state = admission.inner.lock();
            let held = permits.iter().map(|permit| permit.body_bytes).sum::<usize>();
            prop_assert_eq!(state.body_bytes, held);
            prop_assert!(held <= 1_000);
            for (number, known) in &state.tenants {
                let own = permits.iter().filter(|permit| permit.tenant == *number);
                prop_assert_eq!(known.requests as usize, own.clone().count());
                prop_assert_eq!(known.body_bytes, own.map(|permit| permit.body_bytes).sum::<usize>());
                prop_assert!(known.requests <= 3 && known.body_bytes <= 500);
            }
        }
        drop(permits);
        let state = admission.inner.lock();
        prop_assert!(state.body_bytes == 0 && state.tenants.values().all(|tenant| tenant.is_idle(now)));
    }
}
