//! CSV by RFC 4180: a header line, lines that end with CR LF, quotes where they are needed.
//!
//! A text that a spreadsheet would take for a formula gets an apostrophe before it. Numbers and times never do: `-5` is
//! a number there too. Absent is an empty field, and an empty text is a quoted empty one.

use sheaf_model::Value;

use super::{Cell, Column};

/// What makes a spreadsheet evaluate a text. Some skip white space before a formula, and take full-width signs for their
/// plain forms.
const FORMULA_STARTS: [char; 11] = ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];

pub(super) struct CsvFile {
    bytes: String,
}

impl CsvFile {
    pub(super) fn begin(columns: &[Column]) -> CsvFile {
        let mut file = CsvFile {
            bytes: String::new(),
        };
        // A heading is an attribute's name, and that is somebody's text too.
        file.line(columns.iter(), |column, out| text(&column.name, out));
        file
    }

    pub(super) fn write(&mut self, rows: &[Vec<Cell>]) {
        for row in rows {
            self.line(row.iter(), cell);
        }
    }

    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes).into_bytes()
    }

    fn line<T>(&mut self, fields: impl Iterator<Item = T>, write: impl Fn(T, &mut String)) {
        for (place, field) in fields.enumerate() {
            if place > 0 {
                self.bytes.push(',');
            }
            write(field, &mut self.bytes);
        }
        self.bytes.push_str("\r\n");
    }
}

fn cell(cell: &Cell, out: &mut String) {
    match cell {
        Cell::Absent => {}
        Cell::Digits(digits) => out.push_str(digits),
        Cell::Value(Value::Text(value)) => text(value, out),
        Cell::Value(Value::Time(time)) => out.push_str(&time.to_string()),
        Cell::Value(Value::Json(json)) => field(json.as_str(), out),
        Cell::Value(
            value @ (Value::Int(_) | Value::Float(_) | Value::Decimal(_) | Value::Bool(_)),
        ) => value.write_stored(out),
    }
}

fn text(text: &str, out: &mut String) {
    if text.starts_with(FORMULA_STARTS) {
        field(&format!("'{text}"), out);
    } else {
        field(text, out);
    }
}

fn field(text: &str, out: &mut String) {
    if !text.is_empty() && !text.contains(['"', ',', '\r', '\n']) {
        out.push_str(text);
        return;
    }
    out.push('"');
    out.push_str(&text.replace('"', "\"\""));
    out.push('"');
}

#[cfg(test)]
mod tests {
    use sheaf_model::{AttributeType, JsonText, Timestamp};

    use crate::{Cell, Column, File, Format, Value};

    fn written(columns: &[(&str, AttributeType)], rows: &[Vec<Cell>]) -> String {
        let columns = columns.iter().map(|(name, kind)| Column::of(*name, *kind));
        let mut file = File::begin(Format::Csv, columns.collect()).expect("a file");
        file.write(rows).expect("rows that fit");
        file.finish().expect("the end");
        String::from_utf8(file.take()).expect("UTF-8")
    }

    #[test]
    fn a_text_that_is_a_formula_is_defused_whatever_else_it_holds() {
        for start in ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"] {
            for (rest, quoted) in [
                ("", false),
                ("1+1", false),
                ("SUM(A1)", false),
                (" ", false),
                ("a,b", true),
                ("\"a\"", true),
                ("a\nb", true),
                ("a\rb", true),
                ("=1", false),
                ("'", false),
            ] {
                let is_quoted = quoted || matches!(start, "\r" | "\n");
                let inside = format!("'{start}{rest}");
                let field = match is_quoted {
                    true => format!("\"{}\"", inside.replace('"', "\"\"")),
                    false => inside,
                };
                let text = format!("{start}{rest}");
                let columns = [(text.as_str(), AttributeType::Text)];
                let csv = written(&columns, &[vec![Cell::text(&*text)]]);
                assert_eq!(csv, format!("{field}\r\n{field}\r\n"), "{text:?}");
            }
        }
        for text in ["a=1", "'=1", " =1", "1-1", "\u{2212}1", "é"] {
            let csv = written(&[("a", AttributeType::Text)], &[vec![Cell::text(text)]]);
            assert_eq!(csv, format!("a\r\n{text}\r\n"));
        }
    }

    #[test]
    fn numbers_stay_numbers() {
        let (time, _) = Timestamp::parse("2013-01-01T00:00:00Z").expect("a time");
        let row = vec![
            Cell::Value(Value::Int(-5)),
            Cell::Value(Value::Float(-0.5)),
            Cell::Value(Value::Decimal("-12.50".parse().expect("a number"))),
            Cell::Digits("-99999999999999999999".to_owned()),
            Cell::Value(Value::Time(time)),
            Cell::Value(Value::Json(JsonText::parse("-5", 32).expect("JSON"))),
        ];
        use AttributeType::{Decimal, Float, Int, Json, Time};
        let kinds = [Int, Float, Decimal, Int, Time, Json].map(|kind| ("=a", kind));
        assert_eq!(
            written(&kinds, &[row]),
            "'=a,'=a,'=a,'=a,'=a,'=a\r\n-5,-0.5,-12.50,-99999999999999999999,2013-01-01T00:00:00Z,-5\r\n"
        );
    }

    #[test]
    fn absent_is_not_an_empty_text_and_quotes_stand_where_they_must() {
        let columns = [("a,b", AttributeType::Text), ("c", AttributeType::Json)];
        let json = Value::Json(JsonText::parse(r#"{"x":[1,2]}"#, 32).expect("JSON"));
        let rows = [
            vec![Cell::Absent, Cell::Absent],
            vec![Cell::text(""), Cell::Value(json)],
            vec![Cell::text("two\nlines"), Cell::Absent],
        ];
        assert_eq!(
            written(&columns, &rows),
            "\"a,b\",c\r\n,\r\n\"\",\"{\"\"x\"\":[1,2]}\"\r\n\"two\nlines\",\r\n"
        );
    }
}
