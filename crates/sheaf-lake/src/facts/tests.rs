use sheaf_cdc::change::EventRow;
use sheaf_model::{BatchId, EntityId, Timestamp};
use sheaf_pg::{Pool, Tls};
use uuid::Uuid;

use super::*;

fn event(tenant: i64, entity: i64, day: &str, seq: i16, attrs: &str) -> EventRow {
    EventRow {
        tenant: TenantId(tenant),
        entity: EntityId(entity),
        observed_at: Timestamp::parse(&format!("{day}T12:00:00Z"))
            .expect("a time")
            .0,
        seq,
        op: Op::Patch,
        batch: BatchId(Uuid::nil()),
        ingested_at: Timestamp::MIN,
        attrs: attrs.into(),
    }
}

#[tokio::test]
async fn facts_are_divided_by_day_and_tenant_and_then_in_the_order_of_a_file() {
    // Never asked: everything is learned.
    let nowhere = Pool::new(
        &"host=/nowhere user=nobody".parse().expect("a config"),
        1,
        &Tls::none(),
    );
    let mut names = Names::new(nowhere);
    for (tenant, id) in [(2, 1), (2, 2), (1, 1), (1, 3), (3, 2)] {
        let (tenant, id) = (TenantId(tenant), AttributeId(id));
        names.learn_attribute(tenant, id, "a name", AttributeType::Int);
    }
    let mut pending = Pending::default();
    for row in [
        event(2, 9, "2024-01-02", 0, r#"{"2":1,"1":2}"#),
        event(1, 8, "2024-01-02", 1, r#"{"3":3,"1":4}"#),
        event(1, 8, "2024-01-02", 0, r#"{"1":5}"#),
        event(1, 7, "2024-01-02", 0, "{}"),
        event(1, 7, "2024-01-01", 0, r#"{"1":6}"#),
        event(3, 1, "2024-01-01", 0, r#"{"2":7}"#),
    ] {
        pending.push_event(&row, &names).expect("it is good");
    }
    // Tenants 1 and 2 share a bucket.
    let bucket = |tenant: i64| Ok(if tenant == 3 { 1 } else { 0 });
    let divided = divide(&pending, bucket, |_| true).expect("buckets are known");
    let found: Vec<_> = divided
        .iter()
        .map(|(part, places)| {
            let value = |place: &u32| match pending.fact(*place).cell {
                Cell::Int(number) => number,
                _ => 0,
            };
            (part.day, part.bucket, places.iter().map(value).collect())
        })
        .collect();
    let wanted: Vec<(i32, i32, Vec<i64>)> = vec![
        (19723, 0, vec![6]),
        (19723, 1, vec![7]),
        (19724, 0, vec![0, 5, 4, 3, 2, 1]),
    ];
    assert_eq!(found, wanted);
}

#[test]
fn days_begin_at_midnight_before_1970_too() {
    for (micros, day) in [
        (0, 0),
        (DAY_MICROS - 1, 0),
        (DAY_MICROS, 1),
        (-1, -1),
        (-DAY_MICROS, -1),
        (-DAY_MICROS - 1, -2),
        (Timestamp::MIN.as_micros(), -719_162),
        (Timestamp::MAX.as_micros(), 2_932_896),
    ] {
        assert_eq!(day_of(micros), day, "{micros}");
    }
}
