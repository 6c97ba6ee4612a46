use super::*;

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros).expect("an instant")
}

fn decimal(text: &str) -> Value {
    Value::Decimal(text.parse().expect(text))
}

fn tally(values: &[(i64, Value)]) -> Tally {
    let mut tally = Tally::default();
    values
        .iter()
        .for_each(|(time, value)| tally.add(at(*time), value));
    tally
}

fn all(tally: &Tally, kind: AttributeType) -> Vec<String> {
    let aggregates = Aggregate::ALL.iter();
    let aggregates = aggregates.filter(|aggregate| aggregate.applies_to(kind));
    let value = |aggregate: &Aggregate| {
        let value = tally.value(*aggregate, kind).expect("a value");
        serde_json::to_string(&value).expect("JSON")
    };
    aggregates.map(value).collect()
}

#[test]
fn values_come_to_the_same_in_any_order_and_in_two_parts() {
    let values = [
        (1, decimal("12.50")),
        (2, decimal("-3")),
        (3, decimal("12.5")),
        (4, decimal("-3.00")),
    ];
    let wanted = [
        r#""4.75""#,
        r#""-3.00""#,
        r#""12.5""#,
        r#""19.00""#,
        "4",
        r#""12.50""#,
        r#""-3.00""#,
    ];
    let mut reversed = values.clone();
    reversed.reverse();
    for values in [values.clone(), reversed] {
        assert_eq!(all(&tally(&values), AttributeType::Decimal), wanted);
    }
    for cut in 0..=values.len() {
        let (mut earlier, later) = (tally(&values[..cut]), tally(&values[cut..]));
        earlier.add_later(later);
        assert_eq!(
            all(&earlier, AttributeType::Decimal),
            wanted,
            "cut at {cut}"
        );
    }
}

#[test]
fn values_of_one_instant_are_in_the_order_of_their_texts() {
    for (one, other, kind, first) in [
        (
            Value::Float(1e21),
            Value::Float(2.0),
            AttributeType::Float,
            "1e+21",
        ),
        (Value::Int(10), Value::Int(9), AttributeType::Int, "10"),
        (
            Value::Text("b".to_owned()),
            Value::Text("a".to_owned()),
            AttributeType::Text,
            r#""a""#,
        ),
    ] {
        for values in [[&one, &other], [&other, &one]] {
            let values = values.map(|value| (7, value.clone()));
            let found = tally(&values)
                .value(Aggregate::First, kind)
                .expect("a value");
            assert_eq!(serde_json::to_string(&found).expect("JSON"), first);
        }
    }
}
