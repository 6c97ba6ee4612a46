//! Events and edits against what is taken, what is refused and how little is refused with it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::OUTCOMES_MAX;
use super::*;

const LIMITS: Limits = Limits::DEFAULT;

/// The attributes of an event that is kept, by name.
type Kept = Vec<(String, String)>;
/// The field and code of each refusal.
type Refused = Vec<(String, RefusalCode)>;

/// What became of one event.
fn outcome(event: &str) -> (Option<Kept>, Refused) {
    let body = format!("[{event}]");
    let decoded = json_array(body.as_bytes(), &LIMITS).expect("an array");
    let lines = ndjson(event.as_bytes(), &LIMITS).expect("a line");
    assert_eq!(
        decoded, lines,
        "an array and a line read one event differently"
    );
    assert_eq!(decoded.count, 1);
    let kept = decoded.events.first().map(|event| cells(&event.cells));
    let refused = decoded
        .refusals
        .into_iter()
        .map(|refused| (refused.field.unwrap_or_default(), refused.refusal.code));
    (kept, refused.collect())
}

fn cells(cells: &[RawCell<'_>]) -> Kept {
    cells
        .iter()
        .map(|cell| match &cell.value {
            RawValue::Json(raw) => (cell.name.to_string(), (*raw).to_owned()),
            RawValue::Typed(value) => panic!("{value:?} in JSON"),
        })
        .collect()
}

fn owned(pairs: &[(&str, &str)]) -> Kept {
    pairs
        .iter()
        .map(|(name, raw)| ((*name).to_owned(), (*raw).to_owned()))
        .collect()
}

#[test]
fn an_event_is_cut_and_its_values_are_not_touched() {
    let text = r#" {"id":"N1\u0034228","type":"plane","observed_at":"2013-01-01T10:17:00.1234567Z",
        "attributes":{ "n":12345678901234567890.10 ,"gone":null,"e\u0301":"\ud83d\ude00","deep":{"a":[1,{}]}}} "#;
    let body = format!("[{text}]");
    let decoded = json_array(body.as_bytes(), &LIMITS).expect("an array");
    let event = &decoded.events[0];
    assert_eq!(event.entity_type.as_str(), "plane");
    assert_eq!(event.external_id, "N14228");
    let time = event.observed_at.expect("a time").to_string();
    assert_eq!(
        (time.as_str(), event.time_cut),
        ("2013-01-01T10:17:00.123456Z", true)
    );
    assert_eq!(event.raw, text.trim().as_bytes());
    let expected = [
        ("n", "12345678901234567890.10"),
        ("gone", "null"),
        ("\u{e9}", r#""\ud83d\ude00""#),
        ("deep", r#"{"a":[1,{}]}"#),
    ];
    assert_eq!(cells(&event.cells), owned(&expected));
}

#[test]
fn a_bad_event_is_refused_alone_and_says_where() {
    use RefusalCode::*;
    let long_id = format!(r#"{{"type":"t","id":"{}"}}"#, "x".repeat(513));
    let table: &[(&str, &str, RefusalCode)] = &[
        ("5", "", MalformedJson),
        (r#""x""#, "", MalformedJson),
        ("null", "", MalformedJson),
        ("[]", "", MalformedJson),
        (r#"{"id":"i"}"#, "", MissingType),
        (r#"{"type":null,"id":"i"}"#, "", MissingType),
        (r#"{"type":"","id":"i"}"#, "", MissingType),
        (r#"{"type":5,"id":"i"}"#, "", MissingType),
        (r#"{"type":"a\nb","id":"i"}"#, "type", InvalidName),
        (r#"{"type":"\u0000","id":"i"}"#, "type", InvalidText),
        (r#"{"type":"t"}"#, "", MissingId),
        (r#"{"type":"t","id":7}"#, "", MissingId),
        (r#"{"type":"t","id":""}"#, "", MissingId),
        (r#"{"type":"t","id":"a\tb"}"#, "id", InvalidText),
        (r#"{"type":"t","id":"\ud800"}"#, "id", InvalidText),
        (&long_id, "id", ValueTooLarge),
        (r#"{"type":"t","id":"i","id":"i"}"#, "id", DuplicateKey),
        (r#"{"type":"t","id":"i","Id":"i"}"#, "Id", MalformedJson),
        (r#"{"type":"t","id":"i","\udc00":1}"#, "", InvalidText),
        (
            r#"{"type":"t","id":"i","observed_at":1357020000}"#,
            "observed_at",
            MalformedJson,
        ),
        (
            r#"{"type":"t","id":"i","observed_at":"yesterday"}"#,
            "observed_at",
            MalformedJson,
        ),
        (
            r#"{"type":"t","id":"i","observed_at":"0000-01-01T00:00:00Z"}"#,
            "observed_at",
            TimeOutOfRange,
        ),
        (
            r#"{"type":"t","id":"i","attributes":[]}"#,
            "attributes",
            MalformedJson,
        ),
        (
            r#"{"type":"t","id":"i","attributes":null}"#,
            "attributes",
            MalformedJson,
        ),
        (
            r#"{"type":"t","id":"i","attributes":{"\ud800":1,"a":1}}"#,
            "attributes",
            InvalidText,
        ),
    ];
    for (event, field, code) in table {
        let (kept, refused) = outcome(event);
        assert_eq!(kept, None, "{event:.80}");
        assert_eq!(refused, [((*field).to_owned(), *code)], "{event:.80}");
    }
}

#[test]
fn a_bad_value_is_refused_alone_and_the_rest_is_kept() {
    use RefusalCode::*;
    let long = "x".repeat(300);
    let long_name = format!(r#""{long}":1,"a":2"#);
    let table = [
        (r#""observed_at":1,"a":2"#, ("observed_at", ReservedName)),
        (r#""":1,"a":2"#, ("", InvalidName)),
        (r#""b\u0007":1,"a":2"#, ("b\u{7}", InvalidName)),
        (&long_name, (&long[..255], InvalidName)),
        (r#""b":1,"a":2,"b":1,"b":3"#, ("b", DuplicateKey)),
        (r#""\u00e9":1,"a":2,"e\u0301":1"#, ("\u{e9}", DuplicateKey)),
    ];
    let event =
        |attributes: &str| format!(r#"{{"type":"t","id":"i","attributes":{{{attributes}}}}}"#);
    for (attributes, (field, code)) in table {
        let expected = (Some(owned(&[("a", "2")])), vec![(field.to_owned(), code)]);
        assert_eq!(outcome(&event(attributes)), expected, "{attributes:.80}");
    }
    // Case counts, and only the four reserved names are.
    let kept = owned(&[("type", "1"), ("id", "2"), ("B", "3"), ("b", "4")]);
    assert_eq!(
        outcome(&event(r#""type":1,"id":2,"B":3,"b":4"#)),
        (Some(kept), Vec::new())
    );
}

#[test]
fn an_event_without_attributes_is_kept_and_one_that_lost_all_of_them_is_not() {
    for event in [
        r#"{"type":"t","id":"i"}"#,
        r#"{"type":"t","id":"i","attributes":{},"observed_at":null}"#,
    ] {
        assert_eq!(outcome(event), (Some(Vec::new()), Vec::new()));
    }
    let (kept, refused) = outcome(r#"{"type":"t","id":"i","attributes":{"updated_at":1}}"#);
    assert_eq!((kept, refused.len()), (None, 1));
}

#[test]
fn an_array_that_does_not_parse_is_refused_as_a_whole() {
    for body in [
        &b""[..],
        b"{}",
        b"\"x\"",
        b"[",
        b"[{}",
        b"[{},]",
        b"[{}] x",
        b"[01]",
        b"[{\"a\":tru}]",
        b"\xef\xbb\xbf[]",
        b"[\"\xff\"]",
        b"[\"\xc0\xaf\"]",
    ] {
        let fault = json_array(body, &LIMITS).expect_err("a fault");
        assert!(
            matches!(fault, BodyFault::MalformedJson(_)),
            "{body:?}: {fault:?}"
        );
    }
    assert_eq!(json_array(b" [ ] ", &LIMITS), Ok(Decoded::default()));
}

#[test]
fn a_line_that_does_not_parse_is_refused_alone() {
    let good = r#"{"type":"t","id":"i"}"#;
    let body = [
        good.as_bytes(),
        b"\r\n\n  \n{\"type\":\n",
        good.as_bytes(),
        b"\n\"\xff\"\n",
        good.as_bytes(),
        good.as_bytes(),
    ]
    .concat();
    let decoded = ndjson(&body, &LIMITS).expect("lines");
    let kept: Vec<u32> = decoded.events.iter().map(|event| event.index).collect();
    let refused: Vec<(u32, RefusalCode)> = decoded
        .refusals
        .iter()
        .map(|refused| (refused.index, refused.refusal.code))
        .collect();
    assert_eq!(decoded.count, 5);
    assert_eq!(kept, [0, 2]);
    assert_eq!(
        refused,
        [1, 3, 4].map(|index| (index, RefusalCode::MalformedJson))
    );
    assert_eq!(decoded.refusals[1].raw, b"\"\xff\"");
}

#[test]
fn hostile_json_is_refused_in_bounded_time_and_memory() {
    let event = |attributes: &str| format!(r#"{{"type":"t","id":"i","attributes":{attributes}}}"#);
    let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    let many: String = (0..1_000_000).map(|key| format!("\"k{key}\":1,")).collect();
    let wide: String = (0..1_001).map(|key| format!("\"k{key}\":1,")).collect();
    let table = [
        (deep.clone(), RefusalCode::ValueTooLarge),
        (
            deep[..200_000].to_owned() + &deep[1_800_000..],
            RefusalCode::MalformedJson,
        ),
        (
            event(&format!("{{{}}}", many.trim_end_matches(','))),
            RefusalCode::ValueTooLarge,
        ),
        (
            event(&format!("{{{}}}", wide.trim_end_matches(','))),
            RefusalCode::TooManyAttributes,
        ),
        (
            event(&format!("{{\"a\":\"{}\"}}", "x".repeat(100_000_000))),
            RefusalCode::ValueTooLarge,
        ),
    ];
    for (event, code) in table {
        let (kept, refused) = outcome(&event);
        assert_eq!(kept, None);
        assert_eq!(refused[0].1, code, "{event:.60}");
    }
    // Depth within the bound on bytes is the value's to refuse, when its type is known.
    let nested = event(&format!("{{\"a\":{}}}", &deep[900_000..1_100_000]));
    assert!(outcome(&nested).0.is_some());
    assert!(json_array("[".repeat(10_000_000).as_bytes(), &LIMITS).is_err());
}

#[test]
fn a_body_of_endless_tiny_events_is_refused_before_it_fills_memory() {
    let array = format!("[{}0]", "0,".repeat(OUTCOMES_MAX));
    assert_eq!(
        json_array(array.as_bytes(), &LIMITS),
        Err(BodyFault::TooManyEvents)
    );
    let lines = "0\n".repeat(OUTCOMES_MAX + 1);
    assert_eq!(
        ndjson(lines.as_bytes(), &LIMITS),
        Err(BodyFault::TooManyEvents)
    );
    let most = "0\n".repeat(OUTCOMES_MAX);
    assert_eq!(
        ndjson(most.as_bytes(), &LIMITS).map(|decoded| decoded.count),
        Ok(1_000_000)
    );
}

#[test]
fn an_edit_holds_attributes_and_a_time() {
    let body = br#" {"attributes":{"seats":149,"speed":null,"updated_at":1},"observed_at":"2013-01-01T10:00:00Z"} "#;
    let edit = super::edit(body, &LIMITS).expect("an edit");
    assert_eq!(
        cells(&edit.cells),
        owned(&[("seats", "149"), ("speed", "null")])
    );
    assert_eq!(
        edit.observed_at.map(|time| time.to_string()).as_deref(),
        Some("2013-01-01T10:00:00Z")
    );
    assert_eq!(edit.refusals.len(), 1);
    assert_eq!(edit.refusals[0].0.as_deref(), Some("updated_at"));
    assert_eq!(edit.refusals[0].1.code, RefusalCode::ReservedName);
    let empty = super::edit(b"{}", &LIMITS).expect("an edit");
    assert_eq!(
        (empty.cells.len(), empty.refusals.len(), empty.observed_at),
        (0, 0, None)
    );
}

#[test]
fn a_body_that_is_no_edit_is_refused_by_what_is_wrong_with_it() {
    let edit = |body: &[u8]| super::edit(body, &LIMITS).expect_err("a fault");
    for (body, field) in [
        (&br#"{"attribute":{}}"#[..], "attribute"),
        (br#"{"id":"x"}"#, "id"),
        (br#"{"type":"x"}"#, "type"),
    ] {
        assert_eq!(edit(body), BodyFault::UnknownField(field.to_owned()));
    }
    for body in [
        &b""[..],
        b"[]",
        b"{",
        b"{} {}",
        b"\xff",
        br#"{"attributes":5}"#,
        br#"{"attributes":{},"attributes":{}}"#,
    ] {
        let fault = edit(body);
        assert!(
            matches!(fault, BodyFault::MalformedJson(_)),
            "{body:?}: {fault:?}"
        );
    }
    for (time, code) in [
        ("5", RefusalCode::MalformedJson),
        ("\"noon\"", RefusalCode::MalformedJson),
        ("\"0000-01-01T00:00:00Z\"", RefusalCode::TimeOutOfRange),
    ] {
        let fault = edit(format!("{{\"observed_at\":{time}}}").as_bytes());
        assert!(
            matches!(&fault, BodyFault::ObservedAt(refusal) if refusal.code == code),
            "{time}: {fault:?}"
        );
    }
    let large = format!(
        "{{\"attributes\":{{\"a\":\"{}\"}}}}",
        "x".repeat(LIMITS.event_bytes_max)
    );
    let refused = super::edit(large.as_bytes(), &LIMITS)
        .expect("an edit")
        .refusals;
    assert_eq!(refused[0].1.code, RefusalCode::ValueTooLarge);
}

/// Texts with everything that JSON must escape, and letters with several spellings.
fn texts() -> impl Strategy<Value = String> {
    let letter = prop_oneof![
        prop::char::range('a', 'e'),
        Just('"'),
        Just('\\'),
        Just('/'),
        Just('\u{e9}'),
        Just('\u{1f600}'),
        Just(' '),
    ];
    prop::collection::vec(letter, 1..6).prop_map(|letters| letters.into_iter().collect())
}

fn values() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        any::<f64>().prop_map(serde_json::Value::from),
        ".*".prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            prop::collection::vec((texts(), inner), 0..4)
                .prop_map(|members| members.into_iter().collect()),
        ]
    })
}

/// What bodies are made of, whole and broken.
const PIECES: [&[u8]; 19] = [
    b"{",
    b"}",
    b"\"",
    b"\\",
    b":",
    b",",
    b"[",
    b"]",
    b"\n",
    b"\r",
    b" ",
    b"\xff",
    b"1",
    b"\"type\":\"t\",",
    b"\"id\":\"i\"",
    b"{\"type\":\"t\",\"id\":\"i\",\"attributes\":{",
    b"\"a\":",
    b"\"observed_at\":\"2013-01-01T00:00:00Z\"",
    b"}}\n",
];

proptest! {
    #[test]
    fn what_is_written_as_json_reads_back(
        events in prop::collection::vec((texts(), texts(), prop::collection::btree_map(texts(), values(), 0..6)), 0..6),
        pretty: bool,
    ) {
        let written: Vec<String> = events
            .iter()
            .map(|(kind, id, attributes)| {
                let event = serde_json::json!({"type": kind, "id": id, "attributes": attributes});
                event.to_string()
            })
            .collect();
        let array: serde_json::Value = written.iter().map(|text| serde_json::from_str::<serde_json::Value>(text).expect("JSON")).collect();
        let array = if pretty { format!("{array:#}") } else { array.to_string() };
        let lines = written.join("\r\n");
        for decoded in [json_array(array.as_bytes(), &LIMITS), ndjson(lines.as_bytes(), &LIMITS)] {
            let decoded = decoded.expect("a body");
            prop_assert_eq!(decoded.refusals.len(), 0);
            prop_assert_eq!(decoded.events.len(), events.len());
            for (event, (kind, id, attributes)) in decoded.events.iter().zip(&events) {
                prop_assert_eq!(event.entity_type.as_str(), kind);
                prop_assert_eq!(&event.external_id, id);
                let read: BTreeMap<String, serde_json::Value> = cells(&event.cells)
                    .into_iter()
                    .map(|(name, raw)| (name, serde_json::from_str(&raw).expect("a token")))
                    .collect();
                let sent: BTreeMap<String, serde_json::Value> = attributes
                    .iter()
                    .map(|(name, value)| (name.clone(), serde_json::from_str(&value.to_string()).expect("JSON")))
                    .collect();
                prop_assert_eq!(read, sent);
            }
        }
    }

    #[test]
    fn any_bytes_give_each_line_one_outcome(
        pieces in prop::collection::vec(prop::sample::select(PIECES.to_vec()), 0..40),
    ) {
        let body = pieces.concat();
        let decoded = ndjson(&body, &LIMITS).expect("few lines");
        let lines: Vec<&[u8]> = body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()).collect();
        prop_assert_eq!(usize::try_from(decoded.count).ok(), Some(lines.len()));
        let mut seen = vec![false; lines.len()];
        for (index, raw) in decoded.events.iter().map(|event| (event.index, event.raw))
            .chain(decoded.refusals.iter().map(|refused| (refused.index, refused.raw)))
        {
            let index = usize::try_from(index).expect("small");
            prop_assert_eq!(raw, lines[index]);
            seen[index] = true;
        }
        prop_assert!(seen.iter().all(|seen| *seen), "a line has no outcome");
        // The same as an array must not panic, whatever it says.
        let _ = json_array(&body, &LIMITS);
        let _ = super::edit(&body, &LIMITS);
    }
}
