//! Line protocol against InfluxDB's grammar and words, against what clients write, and against what nobody should.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use sheaf_model::Value;

use super::super::OUTCOMES_MAX;
use super::*;

const LIMITS: Limits = Limits::DEFAULT;

fn decode(body: &[u8]) -> Decoded<'_> {
    line_protocol(body, Precision::Nanoseconds, &IdRules::default(), &LIMITS).expect("few lines")
}

fn one(line: &str) -> RawEvent<'_> {
    let mut decoded = decode(line.as_bytes());
    assert_eq!(decoded.refusals, [], "{line}");
    assert_eq!((decoded.events.len(), decoded.count), (1, 1), "{line}");
    decoded.events.remove(0)
}

fn fields(event: &RawEvent<'_>) -> Vec<(String, Value)> {
    event
        .cells
        .iter()
        .map(|cell| match &cell.value {
            RawValue::Typed(value) => (cell.name.to_string(), value.clone()),
            RawValue::Json(raw) => panic!("JSON {raw} in line protocol"),
        })
        .collect()
}

fn tags(tags: &[RawTag<'_>]) -> Vec<(String, String)> {
    tags.iter()
        .map(|tag| (tag.name.to_string(), tag.value.to_string()))
        .collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn a_line_is_read_as_influxdb_reads_it() {
    let event = one("cpu,region=eu,host=a usage=12.5,n=3i,ok=t,s=\"x, y=z\" 1357020000000000001");
    assert_eq!(event.entity_type.as_str(), "cpu");
    assert_eq!(event.external_id, "host=a,region=eu");
    assert_eq!(
        *event.tags,
        RawTags::Series(vec![
            RawTag {
                name: "host".into(),
                value: "a".into()
            },
            RawTag {
                name: "region".into(),
                value: "eu".into()
            },
        ])
    );
    let expected = [
        ("usage", Value::Float(12.5)),
        ("n", Value::Int(3)),
        ("ok", Value::Bool(true)),
        ("s", Value::Text("x, y=z".to_owned())),
    ];
    assert_eq!(
        fields(&event),
        expected.map(|(name, value)| (name.to_owned(), value))
    );
    let time = event.observed_at.expect("a time").to_string();
    assert_eq!(
        (time.as_str(), event.time_cut),
        ("2013-01-01T06:00:00Z", true)
    );
    assert_eq!(one("cpu v=1").observed_at, None);
}

#[test]
fn values_are_typed_by_their_spelling() {
    let text = |text: &str| Value::Text(text.to_owned());
    let table = [
        ("3i", Value::Int(3)),
        ("-9223372036854775808i", Value::Int(i64::MIN)),
        ("007i", Value::Int(7)),
        ("9223372036854775807u", Value::Int(i64::MAX)),
        ("1", Value::Float(1.0)),
        ("1.", Value::Float(1.0)),
        (".5", Value::Float(0.5)),
        ("-.5e-3", Value::Float(-0.0005)),
        ("1e+23", Value::Float(1e23)),
        ("-0", Value::Float(0.0)),
        ("00.5", Value::Float(0.5)),
        (
            "0018446744073709551616.",
            Value::Float(18_446_744_073_709_551_616.0),
        ),
        ("-1.e300", Value::Float(-1e300)),
        (
            "18446744073709551616",
            Value::Float(18_446_744_073_709_551_616.0),
        ),
        (
            "18446744073709552000",
            Value::Float(18_446_744_073_709_551_616.0),
        ),
        ("T", Value::Bool(true)),
        ("True", Value::Bool(true)),
        ("TRUE", Value::Bool(true)),
        ("f", Value::Bool(false)),
        ("false", Value::Bool(false)),
        ("\"\"", text("")),
        (r#""a\"b\\c\n\,""#, text("a\"b\\c\\n\\,")),
        ("\"two\nlines\"", text("two\nlines")),
        ("\"dos\r\nlines\"", text("dos\r\nlines")),
    ];
    for (spelling, value) in table {
        let line = format!("m v={spelling} 1");
        assert_eq!(fields(&one(&line)), [("v".to_owned(), value)], "{spelling}");
    }
}

#[test]
fn escapes_are_those_of_their_place_and_any_other_backslash_is_itself() {
    let event = one(r#"my\ m\,x\=,k\ \,\==v\ \,\=\x,b\\\,c=C:\dir f\ \,\=\"=1"#);
    assert_eq!(event.entity_type.as_str(), r"my m,x\=");
    let RawTags::Series(read) = &*event.tags else {
        panic!("{:?}", event.tags)
    };
    assert_eq!(
        tags(read),
        pairs(&[(r"b\\,c", r"C:\dir"), ("k ,=", r"v ,=\x")])
    );
    assert_eq!(event.external_id, r"b\\\,c=C:\dir,k\ \,\==v\ \,\=\x");
    assert_eq!(fields(&event), [("f ,=\\\"".to_owned(), Value::Float(1.0))]);
}

#[test]
fn comments_empty_lines_and_white_space_count_for_the_number_of_a_line_only() {
    let body = b"# a \"comment\n\n  \t\r\nm v=1\r\n   # v=\"\n m   v=\"a\nb\"  5  \n\nm v=2";
    let decoded = decode(body);
    assert_eq!(decoded.refusals, []);
    let places: Vec<u32> = decoded.events.iter().map(|event| event.index).collect();
    assert_eq!((places.as_slice(), decoded.count), (&[3, 5, 8][..], 3));
    assert_eq!(decoded.events[0].raw, b"m v=1");
    let empty = decode(b"");
    assert_eq!(
        (empty.events, empty.refusals, empty.count),
        (vec![], vec![], 0)
    );
}

#[test]
fn what_is_no_line_is_refused_in_influxdbs_words() {
    let table = [
        (",host=a v=1", "missing measurement"),
        ("cpu", "missing fields"),
        ("cpu ", "missing fields"),
        ("cpu,host=a", "missing fields"),
        ("cpu, v=1", "missing tag key"),
        ("cpu,=a v=1", "missing tag key"),
        ("cpu,host=a, v=1", "missing tag key"),
        ("cpu,host", "missing tag value"),
        ("cpu,host v=1", "missing tag value"),
        ("cpu,host= v=1", "missing tag value"),
        ("cpu,host=,b=c v=1", "missing tag value"),
        ("cpu,host=a=b v=1", "invalid tag format"),
        ("cpu =1", "missing field key"),
        ("cpu a=1,=2", "missing field key"),
        ("cpu usage=", "missing field value"),
        ("cpu usage=,b=1", "missing field value"),
        ("cpu usage= 5", "missing field value"),
        ("cpu usage", "invalid field format"),
        ("cpu a=1,", "invalid field format"),
        ("cpu a=1,b 5", "invalid field format"),
        ("cpu a=\"x\"y", "invalid field format"),
        ("cpu a=\"x", "unbalanced quotes"),
        ("cpu a=\"x\\\"", "unbalanced quotes"),
        ("cpu a=1.2.3", "invalid number"),
        ("cpu a=12x", "invalid number"),
        ("cpu a=1.5i", "invalid number"),
        ("cpu a=-1u", "invalid number"),
        ("cpu a=i", "invalid boolean"),
        ("cpu a=-", "invalid number"),
        ("cpu a=.", "invalid number"),
        ("cpu a=1e", "invalid number"),
        ("cpu a=NaN", "invalid number"),
        ("cpu a=nan", "invalid number"),
        ("cpu a=-inf", "invalid number"),
        ("cpu a=Inf", "invalid boolean"),
        ("cpu a=+1", "invalid boolean"),
        ("cpu a=tRUE", "invalid boolean"),
        ("cpu a='x'", "invalid boolean"),
        ("cpu a=1 noon", "bad timestamp"),
        ("cpu a=1 1.5", "bad timestamp"),
        ("cpu a=1 -", "bad timestamp"),
        ("cpu a=1 5 6", "point is invalid"),
    ];
    for (line, words) in table {
        let decoded = decode(line.as_bytes());
        assert_eq!(
            (decoded.events.len(), decoded.refusals.len()),
            (0, 1),
            "{line}"
        );
        let refused = &decoded.refusals[0];
        assert_eq!(
            refused.refusal,
            Refusal::new(RefusalCode::MalformedLine, words),
            "{line}"
        );
        assert_eq!(refused.raw, line.as_bytes());
    }
    assert_eq!(
        decode(b"cpu usage=").refusals[0].entity_type.as_deref(),
        Some("cpu")
    );
}

#[test]
fn a_line_that_cannot_be_held_is_refused_by_its_code() {
    use RefusalCode::*;
    let long_type = format!("{} v=1", "m".repeat(256));
    let long_key = format!("m,{}=a v=1", "k".repeat(256));
    let long_tag = format!("m,k={} v=1", "v".repeat(511));
    let megabyte_tag = format!("m,k={} v=1", "v".repeat(1_000_000));
    let too_long = format!("m v=\"{}\"", "v".repeat(LIMITS.event_bytes_max));
    let wide: Vec<String> = (0..1_001).map(|key| format!("k{key}=1")).collect();
    let wide = format!("m {}", wide.join(","));
    let table: &[(&str, RefusalCode)] = &[
        ("m,a=1,b=2,a=1 v=1", DuplicateKey),
        ("m,\u{e9}=1,e\u{301}=1 v=1", DuplicateKey),
        ("m\tx v=1", InvalidName),
        (&long_type, InvalidName),
        (&long_key, InvalidName),
        ("m,k=a\tb v=1", InvalidText),
        ("m,k=\u{338}a v=1", InvalidText),
        (&long_tag, ValueTooLarge),
        (&megabyte_tag, ValueTooLarge),
        (&too_long, ValueTooLarge),
        (&wide, TooManyAttributes),
        ("m v=1 9223372036854775808", TimeOutOfRange),
    ];
    for (line, code) in table {
        let decoded = decode(line.as_bytes());
        assert_eq!(decoded.events, [], "{line:.60}");
        assert_eq!(decoded.refusals.len(), 1, "{line:.60}");
        assert_eq!(decoded.refusals[0].refusal.code, *code, "{line:.60}");
    }
    for line in [&b"m\xff v=1"[..], b"m,\xff=1 v=1", b"m,k=\xff v=1"] {
        assert_eq!(decode(line).refusals[0].refusal.code, InvalidText);
    }
}

#[test]
fn a_value_that_cannot_be_held_is_refused_alone() {
    use RefusalCode::*;
    let long = format!("b=\"{}\"", "x".repeat(LIMITS.value_bytes_max + 1));
    let table: &[(&[u8], RefusalCode)] = &[
        (b"b=9223372036854775808u", OutOfRange),
        (b"b=99999999999999999999999u", OutOfRange),
        (b"b=-9223372036854775809i", OutOfRange),
        (b"b=1e400", OutOfRange),
        (b"b=1e-400", OutOfRange),
        (b"b=9007199254740993", NumberNotExact),
        (b"b=\"a\0b\"", InvalidText),
        (b"b=\"\xff\"", InvalidText),
        (b"b=1,b=1", DuplicateKey),
        (b"b=1,b=99999999999999999999i", DuplicateKey),
        (b"host=1", DuplicateKey),
        (b"observed_at=1", ReservedName),
        (b"b\tc=1", InvalidName),
        (b"\xff=1", InvalidText),
        (long.as_bytes(), ValueTooLarge),
    ];
    for (field, code) in table {
        let line = [b"m,host=x good=1,", *field].concat();
        let decoded = decode(&line);
        let name = String::from_utf8_lossy(&line)
            .chars()
            .take(60)
            .collect::<String>();
        assert_eq!(decoded.refusals.len(), 1, "{name}");
        assert_eq!(decoded.refusals[0].refusal.code, *code, "{name}");
        assert_eq!(
            fields(&decoded.events[0]),
            [("good".to_owned(), Value::Float(1.0))],
            "{name}"
        );
        let line = [b"m,host=x ", *field].concat();
        let decoded = decode(&line);
        assert_eq!(
            (decoded.events.len(), decoded.refusals.len(), decoded.count),
            (0, 1, 1),
            "{name}"
        );
    }
}

#[test]
fn a_reserved_tag_names_the_entity_and_is_no_attribute() {
    let decoded = decode(b"m,a=1,external_id=x v=1");
    let event = &decoded.events[0];
    assert_eq!(event.external_id, "a=1,external_id=x");
    assert_eq!(
        *event.tags,
        RawTags::Series(vec![RawTag {
            name: "a".into(),
            value: "1".into()
        }])
    );
    assert_eq!(decoded.refusals[0].field.as_deref(), Some("external_id"));
    assert_eq!(decoded.refusals[0].refusal.code, RefusalCode::ReservedName);
}

#[test]
fn no_two_tag_sets_make_one_id() {
    let table = [
        ("m v=1", "_"),
        ("m,id=plain v=1", "plain"),
        (r"m,id=a\ b\,c v=1", "a b,c"),
        ("m,id=_ v=1", "id=_"),
        (r"m,id=host\=a v=1", r"id=host\=a"),
        ("m,host=a v=1", "host=a"),
        ("m,b=2,id=1 v=1", "b=2,id=1"),
        (r"m,a=1\,b\=2 v=1", r"a=1\,b\=2"),
        ("m,a=1,b=2 v=1", "a=1,b=2"),
        (r"m,a\,b=1 v=1", r"a\,b=1"),
        ("m,k=e\u{301} v=1", "k=\u{e9}"),
    ];
    let mut seen = BTreeSet::new();
    for (line, id) in table {
        assert_eq!(one(line).external_id, id, "{line}");
        assert!(seen.insert(id), "{id} stands for two series");
    }
}

#[test]
fn a_rule_names_the_tags_that_make_the_id() {
    let rule = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    let mut rules = IdRules::default();
    rules
        .by_measurement
        .insert("cpu".to_owned(), rule(&["host", "cpu"]));
    let body = br"cpu,cpu=cpu0,host=a\ b,region=eu v=1
cpu,host=a v=1
mem,host=a v=1";
    let read = |rules: &IdRules| {
        line_protocol(body, Precision::Nanoseconds, rules, &LIMITS).expect("few lines")
    };
    let decoded = read(&rules);
    assert_eq!(decoded.events[0].external_id, r"a\ b,cpu0");
    let RawTags::Beside { id, others } = &*decoded.events[0].tags else {
        panic!("{:?}", decoded.events[0].tags)
    };
    assert_eq!(tags(id), pairs(&[("host", "a b"), ("cpu", "cpu0")]));
    assert_eq!(tags(others), pairs(&[("region", "eu")]));
    assert_eq!(
        (decoded.refusals[0].index, decoded.refusals[0].refusal.code),
        (1, RefusalCode::MissingId)
    );
    assert_eq!(decoded.refusals[0].field, None);
    assert_eq!(decoded.events[1].external_id, "host=a");

    // The request's own rule comes before the tenant's, for every measurement.
    rules.all = Some(rule(&["host"]));
    let ids: Vec<String> = read(&rules)
        .events
        .into_iter()
        .map(|event| event.external_id)
        .collect();
    assert_eq!(ids, [r"a\ b", "a", "a"]);
}

#[test]
fn times_are_read_in_the_precision_of_the_request() {
    let table = [
        ("n", "1357020000000000000", "2013-01-01T06:00:00Z"),
        ("ns", "-1", "1969-12-31T23:59:59.999999Z"),
        ("u", "1357020000000001", "2013-01-01T06:00:00.000001Z"),
        ("us", "1357020000000001", "2013-01-01T06:00:00.000001Z"),
        ("ms", "1357020000001", "2013-01-01T06:00:00.001Z"),
        ("s", "1357020000", "2013-01-01T06:00:00Z"),
        ("m", "22617000", "2013-01-01T06:00:00Z"),
        ("h", "376950", "2013-01-01T06:00:00Z"),
    ];
    for (precision, digits, time) in table {
        let line = format!("m v=1 {digits}");
        let unit = Precision::parse(precision).expect(precision);
        let decoded =
            line_protocol(line.as_bytes(), unit, &IdRules::default(), &LIMITS).expect("a line");
        let read = decoded.events[0].observed_at.expect("a time");
        assert_eq!(read.to_string(), time, "{precision}");
        let line = format!("m v=1 {}", i64::MAX);
        let decoded =
            line_protocol(line.as_bytes(), unit, &IdRules::default(), &LIMITS).expect("a line");
        let fits = matches!(unit, Precision::Nanoseconds);
        assert_eq!(decoded.events.len(), usize::from(fits), "{precision}");
        if !fits {
            assert_eq!(
                decoded.refusals[0].refusal.code,
                RefusalCode::TimeOutOfRange
            );
        }
    }
    assert_eq!(Precision::parse("d"), None);
}

#[test]
fn a_quote_that_is_never_closed_costs_its_own_line_only() {
    let bodies = [
        "m v=1\nm s=\"open\nm v=2\nm v=3\n",
        "m v=1\nm s=\"open\nm s=\"closed\"\nm v=3\n",
        "m v=1\nm s=\"open\nm v=2,s=\"closed\" 5\nm v=3",
        "m v=1\nm v=5\",s=\"open\nm v=2\nm v=3\n",
    ];
    for body in bodies {
        let decoded = decode(body.as_bytes());
        let places: Vec<u32> = decoded.events.iter().map(|event| event.index).collect();
        assert_eq!(places, [0, 2, 3], "{body}");
        assert_eq!(decoded.refusals.len(), 1, "{body}");
        assert_eq!(decoded.refusals[0].index, 1, "{body}");
    }
}

#[test]
fn a_bad_line_keeps_the_lines_that_its_strings_hold() {
    // Were it cut inside its string, what a user typed there would become an event.
    let body = "m,host= s=\"x\nm injected=1\ny\"\nm v=1\n";
    let decoded = decode(body.as_bytes());
    assert_eq!((decoded.events.len(), decoded.refusals.len()), (1, 1));
    assert_eq!(decoded.events[0].index, 3);
    assert_eq!(decoded.refusals[0].refusal.reason, "missing tag value");
}

#[test]
fn hostile_lines_are_refused_in_bounded_time_and_memory() {
    let repeated = |text: &str, bytes: usize| text.repeat(bytes / text.len());
    for body in [
        repeated(",", 1_000_000),
        format!("m {}", repeated(",", 1_000_000)),
        format!("m{}", repeated(",a=b", 1_000_000)),
        format!("m {}", repeated("a=1,", 1_000_000)),
        format!("m a=\"{}", repeated("x\n", 1_500_000)),
        format!("m a=\"{}", repeated("\\\"\n", 2_000_000)),
        repeated("m f=1\",g=\"\n", 8_000_000),
        repeated("m f=\"\n", 4_000_000),
        repeated("\\", 1_000_000),
        repeated("=", 1_000_000),
        repeated("\"", 1_000_000),
        repeated("m,\\", 1_000_000),
    ] {
        let decoded = decode(body.as_bytes());
        assert!(
            !decoded.refusals.is_empty() || !decoded.events.is_empty(),
            "{body:.40}"
        );
        assert!(
            decoded
                .refusals
                .iter()
                .all(|refused| refused.refusal.reason.len() < 256)
        );
    }
    let tiny = "a\n".repeat(OUTCOMES_MAX + 1);
    let fault = line_protocol(
        tiny.as_bytes(),
        Precision::default(),
        &IdRules::default(),
        &LIMITS,
    );
    assert_eq!(fault, Err(BodyFault::TooManyEvents));
}

/// Names as clients may send them: every letter that has a meaning somewhere, and no backslash at the end, where it would
/// swallow the separator in InfluxDB too.
fn names() -> impl Strategy<Value = String> {
    let letter = prop_oneof![
        4 => prop::char::range('a', 'd'),
        1 => prop::sample::select(vec![',', '=', ' ', '\\', '"', '#', '\u{e9}', '\u{1f600}']),
    ];
    prop::collection::vec(letter, 1..6)
        .prop_map(|letters| letters.into_iter().collect::<String>())
        .prop_filter("ends in a backslash", |name| !name.ends_with('\\'))
}

fn field_values() -> impl Strategy<Value = (String, Value)> {
    let text = prop::collection::vec(
        prop::sample::select(vec![
            'a', ',', '=', ' ', '\\', '"', '#', '\n', '\r', '\t', '\u{e9}',
        ]),
        0..8,
    );
    prop_oneof![
        any::<i64>().prop_map(|number| (format!("{number}i"), Value::Int(number))),
        any::<bool>().prop_map(|truth| (truth.to_string(), Value::Bool(truth))),
        any::<f64>().prop_filter_map("not finite", |number| {
            let spelling = if number.to_bits() % 2 == 0 {
                format!("{number:e}")
            } else {
                number.to_string()
            };
            Some((spelling, Value::float(number)?))
        }),
        text.prop_map(|letters| {
            let text: String = letters.into_iter().collect();
            let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
            (format!("\"{quoted}\""), Value::Text(text))
        }),
    ]
}

fn escaped(text: &str, letters: &[char]) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        if letters.contains(&letter) {
            out.push('\\');
        }
        out.push(letter);
    }
    out
}

type Sent = (
    String,
    BTreeMap<String, String>,
    BTreeMap<String, (String, Value)>,
    Option<i64>,
);

fn sent_lines() -> impl Strategy<Value = Vec<Sent>> {
    let line = (
        names().prop_filter("a comment", |name| !name.starts_with('#')),
        prop::collection::btree_map(names(), names(), 0..4),
        prop::collection::btree_map(names(), field_values(), 1..5),
        prop::option::of(-1_000_000_000_000_i64..1_000_000_000_000),
    )
        .prop_filter("a tag and a field of one name", |(_, tags, fields, _)| {
            tags.keys().all(|key| !fields.contains_key(key))
        });
    prop::collection::vec(line, 0..6)
}

proptest! {
    #[test]
    fn what_a_client_writes_reads_back(lines in sent_lines(), separator in prop::sample::select(vec!["\n", "\r\n", "\n\n# x=\"\n "])) {
        let mut body = String::new();
        for (measurement, tags, fields, time) in &lines {
            body.push_str(&escaped(measurement, &[',', ' ']));
            // Written in reverse, so that the sorting is the decoder's.
            for (key, value) in tags.iter().rev() {
                body.push_str(&format!(",{}={}", escaped(key, &[',', '=', ' ']), escaped(value, &[',', '=', ' '])));
            }
            let fields: Vec<String> = fields
                .iter()
                .map(|(key, (spelling, _))| format!("{}={spelling}", escaped(key, &[',', '=', ' '])))
                .collect();
            body.push_str(&format!(" {}", fields.join(",")));
            if let Some(time) = time {
                body.push_str(&format!(" {time}"));
            }
            body.push_str(separator);
        }
        let decoded = line_protocol(body.as_bytes(), Precision::Microseconds, &IdRules::default(), &LIMITS).expect("few lines");
        prop_assert_eq!(&decoded.refusals, &[]);
        prop_assert_eq!(decoded.events.len(), lines.len());
        for (event, (measurement, sent_tags, sent_fields, time)) in decoded.events.iter().zip(&lines) {
            prop_assert_eq!(event.entity_type.as_str(), measurement);
            let sent_tags: Vec<(String, String)> = sent_tags.clone().into_iter().collect();
            match &*event.tags {
                RawTags::None => prop_assert!(sent_tags.is_empty()),
                RawTags::Series(read) => prop_assert_eq!(tags(read), sent_tags),
                RawTags::Beside { .. } => prop_assert!(false, "no rule was given"),
            }
            let read: BTreeMap<String, Value> = fields(event).into_iter().collect();
            let sent: BTreeMap<String, Value> = sent_fields.iter().map(|(key, (_, value))| (key.clone(), value.clone())).collect();
            prop_assert_eq!(read, sent);
            prop_assert_eq!(event.observed_at.map(Timestamp::as_micros), *time);
        }
    }

    #[test]
    fn any_bytes_give_each_line_one_outcome_and_nothing_is_lost(
        pieces in prop::collection::vec(prop_oneof![
            8 => prop::sample::select(b",= \"\\\n\r#\t\0\xff".to_vec()).prop_map(|byte| vec![byte]),
            4 => prop::sample::select(b"ab019.-eituf".to_vec()).prop_map(|byte| vec![byte]),
            4 => Just(b"m,k=v f=1".to_vec()),
            2 => Just(b"\nm f=\"".to_vec()),
        ], 0..60),
        with_rule: bool,
    ) {
        let body = pieces.concat();
        let rules = IdRules { all: with_rule.then(|| vec!["k".to_owned()]), ..IdRules::default() };
        let decoded = line_protocol(&body, Precision::Seconds, &rules, &LIMITS).expect("few lines");
        let mut raws: BTreeMap<u32, &[u8]> = BTreeMap::new();
        for event in &decoded.events {
            prop_assert!(raws.insert(event.index, event.raw).is_none(), "two events of one line");
        }
        for refused in &decoded.refusals {
            let known = raws.insert(refused.index, refused.raw);
            prop_assert!(known.is_none_or(|raw| raw == refused.raw));
        }
        prop_assert_eq!(usize::try_from(decoded.count).ok(), Some(raws.len()));
        // What no outcome accounts for is white space and comments, and every line is where its index says.
        let mut rest = &body[..];
        let mut line = 0;
        for (index, raw) in raws {
            let at = raw.as_ptr() as usize - rest.as_ptr() as usize;
            let (skipped, from) = rest.split_at(at);
            prop_assert!(is_nothing(skipped), "lost {:?}", skipped);
            line += breaks(skipped);
            prop_assert_eq!(usize::try_from(index).ok(), Some(line));
            line += breaks(raw);
            rest = &from[raw.len()..];
        }
        prop_assert!(is_nothing(rest), "lost {:?}", rest);
    }
}

fn breaks(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

fn is_nothing(bytes: &[u8]) -> bool {
    bytes.split(|byte| *byte == b'\n').all(|line| {
        let start = line
            .iter()
            .position(|byte| !matches!(byte, b' ' | b'\t' | 0));
        start.is_none_or(|start| line[start] == b'#' || line[start..] == *b"\r")
    })
}

#[test]
fn lines_of_a_series_that_was_seen_are_read_as_the_first() {
    let series = "cpu\\ x,host=a\\ b,region=eu";
    let fields = [
        "a=1i 5",
        "b=2.5,c=\"x\" 6",
        "a=1i,a=2i 7",
        "host=1 8",
        "bad",
        "a=1i nine",
    ];
    let lines: Vec<String> = fields
        .iter()
        .map(|fields| format!("{series} {fields}"))
        .collect();
    let body = [&lines[..], &lines[..]].concat().join("\n");
    let together = decode(body.as_bytes());
    for (place, line) in lines.iter().cycle().take(lines.len() * 2).enumerate() {
        let place = u32::try_from(place).expect("few");
        let alone = decode(line.as_bytes());
        let events: Vec<_> = together
            .events
            .iter()
            .filter(|event| event.index == place)
            .collect();
        assert_eq!(events.len(), alone.events.len(), "{line}");
        for (one, other) in events.iter().zip(&alone.events) {
            assert_eq!(
                RawEvent {
                    index: 0,
                    ..(*one).clone()
                },
                *other
            );
        }
        let refusals = together
            .refusals
            .iter()
            .filter(|refusal| refusal.index == place);
        let refusals: Vec<_> = refusals
            .map(|refusal| (&refusal.field, &refusal.refusal, &refusal.entity_type))
            .collect();
        let expected: Vec<_> = alone
            .refusals
            .iter()
            .map(|refusal| (&refusal.field, &refusal.refusal, &refusal.entity_type))
            .collect();
        assert_eq!(refusals, expected, "{line}");
    }
}
