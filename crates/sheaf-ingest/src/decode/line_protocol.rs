//! InfluxDB line protocol: `measurement[,tag=value..] field=value[,field=value..] [timestamp]`.
//!
//! A line that InfluxDB would not read is refused whole, in InfluxDB's words. A value that it reads and sheaf cannot hold
//! is refused alone. Stricter than InfluxDB where it would guess: a field that stands twice is refused instead of one of
//! its values, and a quote that is never closed costs its own line and not all that follow.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use sheaf_model::{Limits, Name, Refusal, RefusalCode, Timestamp};
use sheaf_store::rejections::Reading;

use super::draft::Draft;
use super::naming::entity_type;
use super::{
    BadValue, BodyFault, Decoded, EventFault, RawEvent, RawTag, RawTags, RawValue, quote_line,
    too_large, too_many_attributes,
};
use field::{check_size, field_value};
use known::{KnownSeries, Series};
use lines::{Line, Lines};
use parts::{KEY_ESCAPES, LineFault, MEASUREMENT_ESCAPES, Parts, Token};
use series::{rule_id, series_id, sort_tags, tag_name};

mod field;
mod known;
mod lines;
mod parts;
mod series;

pub use series::IdRules;

/// The unit of a line's timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Nanoseconds, when nothing else is said.
    #[default]
    Nanoseconds,
    /// Microseconds.
    Microseconds,
    /// Milliseconds.
    Milliseconds,
    /// Seconds.
    Seconds,
    /// Minutes.
    Minutes,
    /// Hours.
    Hours,
}

impl Precision {
    /// The unit of this name: `n`, `ns`, `u`, `us`, `ms`, `s`, `m` or `h`.
    pub fn parse(text: &str) -> Option<Precision> {
        match text {
            "n" | "ns" => Some(Precision::Nanoseconds),
            "u" | "us" => Some(Precision::Microseconds),
            "ms" => Some(Precision::Milliseconds),
            "s" => Some(Precision::Seconds),
            "m" => Some(Precision::Minutes),
            "h" => Some(Precision::Hours),
            _ => None,
        }
    }

    /// The name by which the unit reads back: `ns`, `us`, `ms`, `s`, `m` or `h`.
    pub fn as_str(self) -> &'static str {
        match self {
            Precision::Nanoseconds => "ns",
            Precision::Microseconds => "us",
            Precision::Milliseconds => "ms",
            Precision::Seconds => "s",
            Precision::Minutes => "m",
            Precision::Hours => "h",
        }
    }

    fn nanoseconds(self) -> i128 {
        match self {
            Precision::Nanoseconds => 1,
            Precision::Microseconds => 1_000,
            Precision::Milliseconds => 1_000_000,
            Precision::Seconds => 1_000_000_000,
            Precision::Minutes => 60_000_000_000,
            Precision::Hours => 3_600_000_000_000,
        }
    }
}

/// Reads a body of line protocol. The index of an event is the number of its line of text, from 0, so that it points
/// into the body; comments and empty lines count for that, and not as events.
pub fn line_protocol<'a>(
    body: &'a [u8],
    precision: Precision,
    rules: &IdRules,
    limits: &Limits,
) -> Result<Decoded<'a>, BodyFault> {
    let mut reader = Reader {
        precision,
        rules,
        limits,
        parts: Parts::default(),
        draft: Draft::default(),
        known: KnownSeries::of_body(body),
    };
    let mut decoded = Decoded {
        reading: Reading::LineProtocol {
            precision: Cow::Borrowed(precision.as_str()),
            id_tags: rules.all.as_deref().map(Arc::from),
        },
        ..Decoded::default()
    };
    for line in Lines::new(body) {
        match reader.event(line) {
            Ok((event, bad)) => decoded.settle(event, bad),
            Err(fault) => decoded.refuse(line.index, line.bytes, fault),
        }
        decoded.check_bound()?;
    }
    Ok(decoded)
}

struct Reader<'a, 'r> {
    precision: Precision,
    rules: &'r IdRules,
    limits: &'r Limits,
    parts: Parts<'a>,
    draft: Draft<'a>,
    known: KnownSeries<'a>,
}

impl<'a> Reader<'a, '_> {
    fn event(&mut self, line: Line<'a>) -> Result<(RawEvent<'a>, Vec<BadValue>), EventFault> {
        if let Some(fault) = too_large(line.bytes, self.limits) {
            return Err(fault);
        }
        let known = series_end(line.bytes).and_then(|end| {
            let series = self.known.get(&line.bytes[..end])?;
            Some((end, series))
        });
        if let Some((end, series)) = known {
            let entity_type = series.entity_type.clone();
            return self
                .parts
                .read_after_series(line.bytes, end)
                .map_err(malformed)
                .and_then(|()| self.event_of_series(line, series, Vec::new()))
                .map_err(|fault| fault.of_type(&entity_type));
        }
        let cut_up = self.parts.read(line.bytes);
        // Known as soon as the measurement is, so that a refusal of the rest can say it.
        let measurement = self
            .parts
            .measurement
            .ok_or_else(|| malformed(LineFault::MissingMeasurement))?;
        let entity_type = text(measurement, MEASUREMENT_ESCAPES, "measurement")
            .and_then(|name| entity_type(&name))
            .map_err(|refusal| EventFault::new(None, refusal));
        cut_up.map_err(|fault| match &entity_type {
            Ok(entity_type) => malformed(fault).of_type(entity_type),
            Err(_) => malformed(fault),
        })?;
        let entity_type = entity_type?;
        self.event_of_type(line, entity_type.clone())
            .map_err(|fault| fault.of_type(&entity_type))
    }

    fn event_of_type(
        &mut self,
        line: Line<'a>,
        entity_type: Name,
    ) -> Result<(RawEvent<'a>, Vec<BadValue>), EventFault> {
        // Said before the tags are looked at, of which there may be very many.
        self.check_count(self.parts.tags.len())?;
        let (mut tags, bad) = self.tags()?;
        let (external_id, tags) = match self.rules.for_measurement(entity_type.as_str()) {
            Some(rule) => {
                let (external_id, id) = rule_id(rule, &mut tags)?;
                (external_id, RawTags::Beside { id, others: tags })
            }
            None if tags.is_empty() => (series_id(&tags)?, RawTags::None),
            None => (series_id(&tags)?, RawTags::Series(tags)),
        };
        let series = Series {
            entity_type,
            external_id,
            tags: Rc::new(tags),
        };
        if bad.is_empty()
            && let Some(end) = series_end(line.bytes)
        {
            self.known.note(&line.bytes[..end], &series);
        }
        self.event_of_series(line, series, bad)
    }

    /// `bad` are tags that cannot be attributes.
    fn event_of_series(
        &mut self,
        line: Line<'a>,
        series: Series<'a>,
        mut bad: Vec<BadValue>,
    ) -> Result<(RawEvent<'a>, Vec<BadValue>), EventFault> {
        let mut tags = series.tags;
        self.check_count(tags.iter().count())?;
        let (observed_at, time_cut) = self.observed_at()?;
        self.draft_fields()?;
        let (cells, bad_fields) = self.draft.finish(&tags);
        // A tag that is no attribute still was part of the id.
        for (name, _) in &bad {
            Rc::make_mut(&mut tags).remove(name);
        }
        bad.extend(bad_fields);
        let event = RawEvent {
            index: line.index,
            raw: line.bytes,
            entity_type: series.entity_type,
            external_id: series.external_id,
            observed_at,
            time_cut,
            cells,
            tags,
        };
        Ok((event, bad))
    }

    fn check_count(&self, tags: usize) -> Result<(), EventFault> {
        if tags + self.parts.fields.len() > self.limits.event_attributes_max {
            return Err(EventFault::new(None, too_many_attributes(self.limits)));
        }
        Ok(())
    }

    /// The tags in order, and those among them that cannot be attributes.
    fn tags(&self) -> Result<(Vec<RawTag<'a>>, Vec<BadValue>), EventFault> {
        let mut tags = Vec::with_capacity(self.parts.tags.len());
        let mut bad = Vec::new();
        for (key, value) in &self.parts.tags {
            let read = |token| {
                text(token, KEY_ESCAPES, "a tag").map_err(|refusal| EventFault::new(None, refusal))
            };
            let (name, fault) = tag_name(read(*key)?)?;
            let value = read(*value)?;
            let fault = fault.or_else(|| check_size(&name, value.len(), self.limits).err());
            let fault = fault.or_else(|| {
                let reason = format!("tag {name} holds NUL");
                value
                    .contains('\0')
                    .then(|| Refusal::new(RefusalCode::InvalidText, reason))
            });
            if let Some(fault) = fault {
                bad.push((name.clone().into_owned(), fault));
            }
            tags.push(RawTag { name, value });
        }
        sort_tags(&mut tags)?;
        Ok((tags, bad))
    }

    fn draft_fields(&mut self) -> Result<(), EventFault> {
        self.draft.begin(self.parts.fields.len());
        for (key, value) in &self.parts.fields {
            match text(*key, KEY_ESCAPES, "the name") {
                Ok(name) => {
                    let value = field_value(&name, *value, self.limits).map_err(malformed)?;
                    self.draft.add(name, value.map(RawValue::Typed));
                }
                Err(refusal) => {
                    let name = String::from_utf8_lossy(key.bytes);
                    self.draft.add(name, Err(refusal));
                }
            }
        }
        Ok(())
    }

    fn observed_at(&self) -> Result<(Option<Timestamp>, bool), EventFault> {
        let Some(digits) = self.parts.timestamp else {
            return Ok((None, false));
        };
        let out_of_range = || {
            let reason = format!(
                "the time {} is outside the years 1 to 9999",
                quote_line(digits)
            );
            EventFault::new(None, Refusal::new(RefusalCode::TimeOutOfRange, reason))
        };
        let number: i64 = std::str::from_utf8(digits)
            .ok()
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(out_of_range)?;
        let nanoseconds = i128::from(number) * self.precision.nanoseconds();
        let (time, is_cut) = Timestamp::from_nanos(nanoseconds).map_err(|_| out_of_range())?;
        Ok((Some(time), is_cut))
    }
}

impl<'a> RawTags<'a> {
    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &RawTag<'a>> {
        let (id, others): (&[RawTag<'a>], &[RawTag<'a>]) = match self {
            RawTags::None => (&[], &[]),
            RawTags::Series(tags) => (tags, &[]),
            RawTags::Beside { id, others } => (id, others),
        };
        id.iter().chain(others)
    }

    fn remove(&mut self, name: &str) {
        match self {
            RawTags::None => {}
            RawTags::Series(tags) => tags.retain(|tag| tag.name != name),
            RawTags::Beside { id, others } => {
                id.retain(|tag| tag.name != name);
                others.retain(|tag| tag.name != name);
            }
        }
    }
}

/// Where measurement and tags end: at the first space that no backslash makes ordinary.
fn series_end(line: &[u8]) -> Option<usize> {
    let mut is_escaped = false;
    line.iter().position(|byte| {
        let ends = *byte == b' ' && !is_escaped;
        is_escaped = *byte == b'\\';
        ends
    })
}

fn text<'a>(token: Token<'a>, escapes: &[u8], what: &str) -> Result<Cow<'a, str>, Refusal> {
    token.text(escapes).ok_or_else(|| {
        let reason = format!("{what} is not valid UTF-8: '{}'", quote_line(token.bytes));
        Refusal::new(RefusalCode::InvalidText, reason)
    })
}

fn malformed(fault: LineFault) -> EventFault {
    EventFault::new(
        None,
        Refusal::new(RefusalCode::MalformedLine, fault.to_string()),
    )
}

#[cfg(test)]
mod tests;
