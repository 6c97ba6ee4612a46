//! Every type against what it takes, what it refuses, and what reads back.

use super::*;

fn read(kind: AttributeType, raw: &str) -> Result<Value, RefusalCode> {
    Value::from_json(kind, "x", raw, &Limits::DEFAULT).map_err(|refusal| refusal.code)
}

#[test]
fn values_read_back_as_they_were_sent() {
    use AttributeType::{Bool, Decimal, Float, Int, Json, Text, Time};
    let table = [
        (Int, "9223372036854775807", "9223372036854775807"),
        (Int, "-9223372036854775808", "-9223372036854775808"),
        (Int, "3.0", "3"),
        (Int, "3e0", "3"),
        (Int, "-0", "0"),
        (Float, "0.1", "0.1"),
        (Float, "-0.0", "0.0"),
        (Float, "5e-324", "5e-324"),
        (Float, "1.7976931348623157e308", "1.7976931348623157e+308"),
        (Float, "9007199254740992", "9007199254740992.0"),
        (Float, "1e23", "1e+23"),
        (Float, "18446744073709551616.0", "1.8446744073709552e+19"),
        (Decimal, "\"12.50\"", "\"12.50\""),
        (Decimal, "12.50", "\"12.50\""),
        (
            Decimal,
            "123456789012345678901234567890.10",
            "\"123456789012345678901234567890.10\"",
        ),
        (Text, "\"a\\u00e9\\n\"", "\"aé\\n\""),
        (Text, "\"\"", "\"\""),
        (Bool, "true", "true"),
        (
            Time,
            "\"2013-01-01T01:00:00.000001+01:00\"",
            "\"2013-01-01T00:00:00.000001Z\"",
        ),
        (
            Json,
            "{\"a\":[9007199254740993,1.50]}",
            "{\"a\":[9007199254740993,1.50]}",
        ),
    ];
    for (kind, sent, shown) in table {
        let value = read(kind, sent).unwrap_or_else(|code| panic!("{kind} {sent}: {code}"));
        assert_eq!(value.kind(), kind);
        assert_eq!(
            serde_json::to_string(&value).expect("a value is JSON"),
            shown,
            "{kind} {sent}"
        );
        let mut stored = String::new();
        value.write_stored(&mut stored);
        assert_eq!(
            Value::from_stored(kind, &stored),
            Some(value),
            "{kind} {sent} stored as {stored}"
        );
    }
}

#[test]
fn what_a_type_cannot_hold_is_refused_and_never_rounded() {
    use AttributeType::{Bool, Decimal, Float, Int, Json, Text, Time};
    use RefusalCode as C;
    let table = [
        (Int, "3.5", C::NumberNotExact),
        (Int, "9223372036854775808", C::OutOfRange),
        (Int, "1e131000", C::OutOfRange),
        (Int, "\"3\"", C::TypeMismatch),
        (Float, "9007199254740993", C::NumberNotExact),
        (Float, "9007199254740993.0", C::NumberNotExact),
        (Float, "9223372036854775807", C::NumberNotExact),
        (Float, "1e400", C::OutOfRange),
        (Float, "1e-16000", C::OutOfRange),
        (Float, "\"x\"", C::TypeMismatch),
        (Float, "true", C::TypeMismatch),
        (Decimal, "1e131000", C::OutOfRange),
        (Decimal, "\"abc\"", C::TypeMismatch),
        (Text, "1", C::TypeMismatch),
        (Text, "\"\\u0000\"", C::InvalidText),
        (Text, "\"\\ud800\"", C::InvalidText),
        (Bool, "1", C::TypeMismatch),
        (Time, "\"yesterday\"", C::TypeMismatch),
        (Time, "1357020000", C::TypeMismatch),
        (Json, "{\"a\":1,\"a\":2}", C::DuplicateKey),
        (Json, "[1e131000]", C::OutOfRange),
    ];
    for (kind, sent, code) in table {
        assert_eq!(read(kind, sent), Err(code), "{kind} {sent}");
    }
    let long = format!("\"{}\"", "x".repeat(Limits::DEFAULT.value_bytes_max));
    assert_eq!(read(Text, &long), Err(C::ValueTooLarge));
}

#[test]
fn an_undeclared_attribute_takes_its_type_from_its_first_value() {
    let table = [
        ("1", Some(AttributeType::Float)),
        ("-1.5", Some(AttributeType::Float)),
        ("\"1\"", Some(AttributeType::Text)),
        ("true", Some(AttributeType::Bool)),
        ("{}", Some(AttributeType::Json)),
        ("[]", Some(AttributeType::Json)),
        ("null", None),
    ];
    for (raw, kind) in table {
        assert_eq!(AttributeType::infer(raw), kind, "{raw}");
    }
}
