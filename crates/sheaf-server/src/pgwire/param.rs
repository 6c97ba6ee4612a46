//! Values of parameters, in PostgreSQL's types, as text and in binary form. Pure: no bytes panic.

use sheaf_lake::analytics::Param;
use sheaf_model::Timestamp;
use uuid::Uuid;

use super::fault::{FEATURE_NOT_SUPPORTED, Fault};
use super::message::Form;
use super::numeric::read_numeric;
use super::value::{BOOL, EPOCH_MICROS, FLOAT8, INT8, JSONB, NUMERIC, TEXT, TIMESTAMPTZ};

const NAME: u32 = 19;
const INT2: u32 = 21;
const INT4: u32 = 23;
const JSON: u32 = 114;
const FLOAT4: u32 = 700;
const UNKNOWN: u32 = 705;
const BPCHAR: u32 = 1042;
const VARCHAR: u32 = 1043;
const DATE: u32 = 1082;
const TIMESTAMP: u32 = 1114;
const UUID: u32 = 2950;

const DAY_MICROS: i64 = 86_400_000_000;

/// Reads the value of a parameter, of a type that the client or we have said it has.
pub(super) fn read_param(
    number: usize,
    oid: u32,
    form: Form,
    bytes: Option<&[u8]>,
) -> Result<Param, Fault> {
    let Some(bytes) = bytes else {
        return Ok(Param::Null);
    };
    let read = match form {
        Form::Text => std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| of_text(oid, text)),
        Form::Binary if is_known(oid) => of_binary(oid, bytes),
        Form::Binary => {
            let message = format!("parameter ${number}: type {oid} is not served in binary form");
            return Err(Fault::error(FEATURE_NOT_SUPPORTED, message));
        }
    };
    read.ok_or_else(|| {
        let message = format!("parameter ${number}: no value of its type that a question can hold");
        Fault::error("22P02", message)
    })
}

fn is_known(oid: u32) -> bool {
    [
        0,
        BOOL,
        NAME,
        INT8,
        INT2,
        INT4,
        TEXT,
        JSON,
        FLOAT4,
        FLOAT8,
        UNKNOWN,
        BPCHAR,
        VARCHAR,
        DATE,
        TIMESTAMP,
        TIMESTAMPTZ,
        NUMERIC,
        UUID,
        JSONB,
    ]
    .contains(&oid)
}

fn of_text(oid: u32, text: &str) -> Option<Param> {
    let is_plain = |text: &str| text.bytes().any(|byte| byte.is_ascii_digit());
    match oid {
        BOOL => match text.trim().to_ascii_lowercase().as_str() {
            "t" | "true" | "on" | "yes" | "y" | "1" => Some(Param::Bool(true)),
            "f" | "false" | "off" | "no" | "n" | "0" => Some(Param::Bool(false)),
            _ => None,
        },
        // What is no number, such as NaN and infinity, no attribute can hold.
        INT2 | INT4 | INT8 | FLOAT4 | FLOAT8 | NUMERIC => {
            is_plain(text).then(|| Param::Number(text.trim().to_owned()))
        }
        DATE | TIMESTAMP | TIMESTAMPTZ => rfc3339(text.trim()).map(Param::Text),
        _ => Some(Param::Text(text.to_owned())),
    }
}

/// PostgreSQL's form of a time as RFC 3339 has it. Without an offset it is in UTC, as everything here.
fn rfc3339(text: &str) -> Option<String> {
    if let Ok(day) = Timestamp::parse_date(text) {
        return Some(day.to_string());
    }
    let (date, time) = text.split_once([' ', 'T', 't'])?;
    let zone = time.find(['+', '-', 'Z', 'z']).unwrap_or(time.len());
    let (time, zone) = time.split_at(zone);
    let zone = match zone.len() {
        0 | 1 => "Z".to_owned(),
        3 => format!("{zone}:00"),
        // Any letters can stand there.
        5 => zone
            .split_at_checked(3)
            .map(|(hours, minutes)| format!("{hours}:{minutes}"))?,
        _ => zone.to_owned(),
    };
    let (time, _) = Timestamp::parse(&format!("{date}T{}{zone}", time.trim())).ok()?;
    Some(time.to_string())
}

fn of_binary(oid: u32, bytes: &[u8]) -> Option<Param> {
    let int = |number: i64| Some(Param::Number(number.to_string()));
    let float = |number: f64| {
        number
            .is_finite()
            .then(|| Param::Number(format!("{number:?}")))
    };
    let time = |micros: i64| {
        let time = Timestamp::from_micros(micros.checked_add(EPOCH_MICROS)?).ok()?;
        Some(Param::Text(time.to_string()))
    };
    match oid {
        BOOL => match bytes {
            [0] => Some(Param::Bool(false)),
            [1] => Some(Param::Bool(true)),
            _ => None,
        },
        INT2 => int(i16::from_be_bytes(bytes.try_into().ok()?).into()),
        INT4 => int(i32::from_be_bytes(bytes.try_into().ok()?).into()),
        INT8 => int(i64::from_be_bytes(bytes.try_into().ok()?)),
        // Through its own digits: as a double it would have others.
        FLOAT4 => {
            let number = f32::from_be_bytes(bytes.try_into().ok()?);
            number
                .is_finite()
                .then(|| Param::Number(format!("{number:?}")))
        }
        FLOAT8 => float(f64::from_be_bytes(bytes.try_into().ok()?)),
        NUMERIC => read_numeric(bytes).map(Param::Number),
        TIMESTAMP | TIMESTAMPTZ => time(i64::from_be_bytes(bytes.try_into().ok()?)),
        DATE => {
            let days: i64 = i32::from_be_bytes(bytes.try_into().ok()?).into();
            time(days.checked_mul(DAY_MICROS)?)
        }
        UUID => Some(Param::Text(Uuid::from_slice(bytes).ok()?.to_string())),
        JSONB => {
            let (version, text) = bytes.split_first()?;
            (*version == 1).then_some(())?;
            Some(Param::Text(std::str::from_utf8(text).ok()?.to_owned()))
        }
        _ => Some(Param::Text(std::str::from_utf8(bytes).ok()?.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_in_both_forms_and_what_no_attribute_holds_is_refused() {
        let text = |oid, text: &str| read_param(1, oid, Form::Text, Some(text.as_bytes())).ok();
        let binary = |oid, bytes: &[u8]| read_param(1, oid, Form::Binary, Some(bytes)).ok();
        let number = |digits: &str| Some(Param::Number(digits.to_owned()));
        let of = |text: &str| Some(Param::Text(text.to_owned()));
        for (read, wanted) in [
            (text(0, " as it is"), of(" as it is")),
            (text(INT8, "9007199254740993"), number("9007199254740993")),
            (text(NUMERIC, "12.50"), number("12.50")),
            (text(BOOL, "t"), Some(Param::Bool(true))),
            (text(BOOL, "maybe"), None),
            (text(FLOAT8, "NaN"), None),
            (
                text(TIMESTAMPTZ, "2013-01-01 10:00:00.5+01"),
                of("2013-01-01T09:00:00.5Z"),
            ),
            (
                text(TIMESTAMPTZ, "2013-01-01 10:00:00+0530"),
                of("2013-01-01T04:30:00Z"),
            ),
            (
                text(TIMESTAMP, "2013-01-01 10:00:00"),
                of("2013-01-01T10:00:00Z"),
            ),
            (text(DATE, "2013-01-01"), of("2013-01-01T00:00:00Z")),
            (text(TIMESTAMPTZ, "infinity"), None),
            (text(TIMESTAMPTZ, "2013-01-01 10:00:00+a\u{e9}1"), None),
            (text(TIMESTAMPTZ, "2013-01-01 10:00:00+\u{20ac}"), None),
            (binary(INT4, &7i32.to_be_bytes()), number("7")),
            (binary(INT4, &7i64.to_be_bytes()), None),
            (binary(FLOAT4, &0.1f32.to_be_bytes()), number("0.1")),
            (binary(FLOAT8, &149f64.to_be_bytes()), number("149.0")),
            (binary(FLOAT8, &f64::NAN.to_be_bytes()), None),
            (
                binary(TIMESTAMPTZ, &0i64.to_be_bytes()),
                of("2000-01-01T00:00:00Z"),
            ),
            (binary(TIMESTAMPTZ, &i64::MAX.to_be_bytes()), None),
            (
                binary(DATE, &1i32.to_be_bytes()),
                of("2000-01-02T00:00:00Z"),
            ),
            (binary(JSONB, b"\x01{}"), of("{}")),
            (binary(JSONB, b"\x02{}"), None),
            (
                binary(UUID, &[0; 16]),
                of("00000000-0000-0000-0000-000000000000"),
            ),
            (binary(TEXT, b"\xff"), None),
            (binary(1007, b"an array"), None),
        ] {
            assert_eq!(read, wanted);
        }
        assert_eq!(
            read_param(1, INT8, Form::Binary, None).ok(),
            Some(Param::Null)
        );
    }
}
