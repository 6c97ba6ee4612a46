//! Series that were read before in the same body: agents send the same few again and again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;

use sheaf_model::Name;

use super::super::RawTags;

/// What the measurement and the tags of a line say.
#[derive(Clone)]
pub(super) struct Series<'a> {
    pub(super) entity_type: Name,
    pub(super) external_id: String,
    pub(super) tags: Rc<RawTags<'a>>,
}

/// Series without a fault, by their bytes. One that was seen once is only noted, because other senders send each once a
/// body. Once they take more than the bound, all are forgotten: who repeats series soon is served from a small memory, and
/// who repeats them late would need one of the size of the body.
pub(super) struct KnownSeries<'a> {
    series: HashMap<&'a [u8], Option<Box<Series<'a>>>>,
    bytes: usize,
    bytes_max: usize,
}

/// The bound is the body's bytes divided by this. All bodies that are being stored have 128 MiB at most, so that what is
/// known takes 32 MiB of a server at most. Lines of 100 bytes, each series four times, just fit.
const BODY_BYTES_PER_KNOWN: usize = 4;
/// What a noted series takes: a place in a table that has just grown, which is less than half full.
const NOTED_BYTES: usize = 64;
/// What a series takes beyond that and its texts. Its tags are the events' own.
const SERIES_BYTES: usize = 96;

impl<'a> KnownSeries<'a> {
    pub(super) fn of_body(body: &[u8]) -> KnownSeries<'a> {
        KnownSeries {
            series: HashMap::new(),
            bytes: 0,
            bytes_max: body.len() / BODY_BYTES_PER_KNOWN,
        }
    }

    pub(super) fn get(&self, text: &[u8]) -> Option<Series<'a>> {
        self.series.get(text)?.as_deref().cloned()
    }

    pub(super) fn note(&mut self, text: &'a [u8], series: &Series<'a>) {
        let texts = series.entity_type.as_str().len() + series.external_id.len();
        let more = match self.series.contains_key(text) {
            true => SERIES_BYTES + texts,
            false => NOTED_BYTES,
        };
        if self.bytes + more > self.bytes_max {
            self.series.clear();
            self.bytes = 0;
        }
        match self.series.entry(text) {
            Entry::Vacant(first) => {
                self.bytes += NOTED_BYTES;
                first.insert(None);
            }
            Entry::Occupied(mut again) => {
                self.bytes += SERIES_BYTES + texts;
                again.insert(Some(Box::new(series.clone())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(id: &str) -> Series<'static> {
        Series {
            entity_type: Name::parse("cpu").expect("a name"),
            external_id: id.to_owned(),
            tags: Rc::new(RawTags::None),
        }
    }

    #[test]
    fn a_series_is_known_from_its_third_line_on() {
        let mut known = KnownSeries::of_body(&[0; 4_096]);
        for expected in [false, false, true] {
            assert_eq!(known.get(b"cpu,host=a").is_some(), expected);
            known.note(b"cpu,host=a", &series("host=a"));
        }
    }

    #[test]
    fn what_is_known_stays_within_a_part_of_the_body_however_many_series_there_are() {
        let texts: Vec<String> = (0..2_000).map(|n| format!("cpu,host={}", n / 3)).collect();
        let body_bytes = 16 * 1_024;
        let mut known = KnownSeries::of_body(&vec![0; body_bytes]);
        let mut found = 0;
        for text in &texts {
            found += usize::from(known.get(text.as_bytes()).is_some());
            known.note(text.as_bytes(), &series(text));
            assert!(known.bytes <= body_bytes / BODY_BYTES_PER_KNOWN);
            assert!(known.series.len() * NOTED_BYTES <= known.bytes);
        }
        let claim = "those that come again soon are found all the same";
        assert!(found > texts.len() / 4, "{claim}: {found}");
    }
}
