//! How a segment lies on disk: a header, then records, each framed with its length and a checksum. Pure.

use sheaf_model::{ChangePosition, EntityId, Lsn, Op, TenantId, Timestamp};

use crate::change::EventRow;

/// The first bytes of a segment; another layout has others.
const MAGIC: [u8; 8] = *b"sheafjr1";
/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 68;
/// Bytes before each record: its length and its checksum.
const FRAME_BYTES: usize = 8;
const MARK_BYTES: usize = 18;
const EVENT_BYTES_MIN: usize = 50;
/// What says that it is longer is no record: an event has a megabyte at most as it comes.
const RECORD_BYTES_MAX: usize = 64 << 20;

const EVENT: u8 = 1;
const MARK: u8 = 2;

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// The cluster whose changes these are.
    pub(super) system_id: u64,
    /// Where the journal began.
    pub(super) base: ChangePosition,
    /// Its place among the segments.
    pub(super) number: u64,
    /// The last change that was taken before it; absent before the first.
    pub(super) after: Option<ChangePosition>,
}

impl Header {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.system_id.to_le_bytes());
        bytes.extend(self.base.timeline.to_le_bytes());
        bytes.extend(u32::from(self.after.is_some()).to_le_bytes());
        let after = self.after.unwrap_or(self.base);
        for number in [
            self.base.commit_lsn.0,
            self.base.ordinal,
            self.number,
            after.commit_lsn.0,
            after.ordinal,
        ] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    /// Absent where these bytes are none.
    pub(super) fn read(bytes: &[u8]) -> Option<Header> {
        let (told, checksum) = bytes.get(..HEADER_BYTES)?.split_at(HEADER_BYTES - 4);
        if told[..8] != MAGIC || crc32fast::hash(told).to_le_bytes() != checksum {
            return None;
        }
        let number = |place: usize| number_at(told, 24 + 8 * place);
        let timeline = u32::from_le_bytes(told[16..20].try_into().ok()?);
        let position = |commit_lsn, ordinal| ChangePosition {
            timeline,
            commit_lsn: Lsn(commit_lsn),
            ordinal,
        };
        let is_after_some = told[20] == 1;
        let after = position(number(3)?, number(4)?);
        Some(Header {
            system_id: number_at(told, 8)?,
            base: position(number(0)?, number(1)?),
            number: number(2)?,
            after: is_after_some.then_some(after),
        })
    }
}

/// An event as it was journalled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEvent {
    /// Where its transaction was committed.
    pub commit_lsn: Lsn,
    /// Its place in the transaction.
    pub ordinal: u64,
    /// The tenant.
    pub tenant: TenantId,
    /// The entity.
    pub entity: EntityId,
    /// The instant that it is about.
    pub observed_at: Timestamp,
    /// When the server received it.
    pub ingested_at: Timestamp,
    /// What it does.
    pub op: Op,
    /// Its attributes in their stored form.
    pub attrs: Box<str>,
}

/// A record, read and found to be whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    Event(JournalEvent),
    /// Everything up to there was taken; nothing of its transaction follows where it is the end of that.
    Mark {
        commit_lsn: Lsn,
        ordinal: u64,
        is_end: bool,
    },
}

/// Appends the record of an event.
pub(super) fn write_event(at: ChangePosition, event: &EventRow, out: &mut Vec<u8>) {
    let begin = begin_record(EVENT, at, out);
    for number in [
        event.tenant.0,
        event.entity.0,
        event.observed_at.as_micros(),
        event.ingested_at.as_micros(),
    ] {
        out.extend(number.to_le_bytes());
    }
    out.push(event.op.letter().cast_unsigned());
    out.extend(event.attrs.as_bytes());
    end_record(begin, out);
}

/// Appends the record that everything up to a change was taken.
pub(super) fn write_mark(at: ChangePosition, is_end: bool, out: &mut Vec<u8>) {
    let begin = begin_record(MARK, at, out);
    out.push(u8::from(is_end));
    end_record(begin, out);
}

fn begin_record(kind: u8, at: ChangePosition, out: &mut Vec<u8>) -> usize {
    let begin = out.len();
    out.extend([0; FRAME_BYTES]);
    out.push(kind);
    out.extend(at.commit_lsn.0.to_le_bytes());
    out.extend(at.ordinal.to_le_bytes());
    begin
}

fn end_record(begin: usize, out: &mut [u8]) {
    let (frame, body) = out[begin..].split_at_mut(FRAME_BYTES);
    let length = u32::try_from(body.len()).expect("invariant: an event has some megabytes at most");
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame[4..].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
}

/// What stands at the beginning of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// A record, as its frame says.
    Framed(Framed<'a>),
    /// The bytes end before it does, which takes so many, or more.
    Cut(usize),
    /// No record.
    Broken,
}

/// A record whose bytes are there and were not compared with their checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Framed<'a> {
    checksum: [u8; 4],
    body: &'a [u8],
}

/// Looks at the first record.
pub(super) fn first_record(bytes: &[u8]) -> Found<'_> {
    let Some((frame, rest)) = bytes.split_first_chunk::<FRAME_BYTES>() else {
        return Found::Cut(FRAME_BYTES);
    };
    let [a, b, c, d, checksum @ ..] = *frame;
    let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if !(MARK_BYTES..=RECORD_BYTES_MAX).contains(&length) {
        return Found::Broken;
    }
    match rest.get(..length) {
        Some(body) => Found::Framed(Framed { checksum, body }),
        None => Found::Cut(FRAME_BYTES + length),
    }
}

impl Framed<'_> {
    /// The bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        FRAME_BYTES + self.body.len()
    }

    /// Whether it is an event of another tenant than this; unchecked.
    pub(super) fn is_of_another(&self, tenant: TenantId) -> bool {
        self.body[0] == EVENT
            && number_at(self.body, 17).is_some_and(|number| number.cast_signed() != tenant.0)
    }

    /// Where its transaction was committed; unchecked.
    pub(super) fn commit_lsn(&self) -> Lsn {
        Lsn(number_at(self.body, 1).expect("invariant: no record is shorter than a mark"))
    }

    /// Absent where it is not what was written.
    pub(super) fn read(&self) -> Option<Record> {
        let body = self.body;
        if crc32fast::hash(body).to_le_bytes() != self.checksum {
            return None;
        }
        let (commit_lsn, ordinal) = (Lsn(number_at(body, 1)?), number_at(body, 9)?);
        match body[0] {
            MARK if body.len() == MARK_BYTES => Some(Record::Mark {
                commit_lsn,
                ordinal,
                is_end: body[17] == 1,
            }),
            EVENT if body.len() >= EVENT_BYTES_MIN => {
                let number = |place| number_at(body, place).map(u64::cast_signed);
                let time = |place| Timestamp::from_micros(number(place)?).ok();
                Some(Record::Event(JournalEvent {
                    commit_lsn,
                    ordinal,
                    tenant: TenantId(number(17)?),
                    entity: EntityId(number(25)?),
                    observed_at: time(33)?,
                    ingested_at: time(41)?,
                    op: Op::from_letter(body[49].cast_signed())?,
                    attrs: str::from_utf8(&body[EVENT_BYTES_MIN..]).ok()?.into(),
                }))
            }
            _ => None,
        }
    }
}

fn number_at(bytes: &[u8], place: usize) -> Option<u64> {
    let number = bytes.get(place..place + 8)?.try_into().ok()?;
    Some(u64::from_le_bytes(number))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sheaf_model::BatchId;
    use uuid::Uuid;

    use super::*;

    fn at(commit_lsn: u64, ordinal: u64) -> ChangePosition {
        ChangePosition {
            timeline: 3,
            commit_lsn: Lsn(commit_lsn),
            ordinal,
        }
    }

    fn event(tenant: i64, attrs: &str) -> EventRow {
        EventRow {
            tenant: TenantId(tenant),
            entity: EntityId(-7),
            observed_at: Timestamp::MIN,
            seq: 1,
            op: Op::Correct,
            batch: BatchId(Uuid::nil()),
            ingested_at: Timestamp::MAX,
            attrs: attrs.into(),
        }
    }

    fn framed(bytes: &[u8]) -> Framed<'_> {
        match first_record(bytes) {
            Found::Framed(framed) => framed,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn records_read_back_one_after_the_other() {
        let mut bytes = Vec::new();
        write_event(at(10, 2), &event(5, r#"{"1":"ü"}"#), &mut bytes);
        write_mark(at(10, 3), true, &mut bytes);
        let first = framed(&bytes);
        assert!(first.is_of_another(TenantId(6)) && !first.is_of_another(TenantId(5)));
        assert_eq!(first.commit_lsn(), Lsn(10));
        let wanted = JournalEvent {
            commit_lsn: Lsn(10),
            ordinal: 2,
            tenant: TenantId(5),
            entity: EntityId(-7),
            observed_at: Timestamp::MIN,
            ingested_at: Timestamp::MAX,
            op: Op::Correct,
            attrs: r#"{"1":"ü"}"#.into(),
        };
        assert_eq!(first.read(), Some(Record::Event(wanted)));
        let second = framed(&bytes[first.bytes()..]);
        assert!(!second.is_of_another(TenantId(6)), "a mark is for all");
        let mark = Record::Mark {
            commit_lsn: Lsn(10),
            ordinal: 3,
            is_end: true,
        };
        assert_eq!(second.read(), Some(mark));
        assert_eq!(first.bytes() + second.bytes(), bytes.len());
    }

    #[test]
    fn a_header_reads_back_and_one_that_was_changed_is_none() {
        for after in [None, Some(at(9, 4))] {
            let header = Header {
                system_id: 77,
                base: at(8, 0),
                number: 12,
                after,
            };
            let bytes = header.to_bytes();
            assert_eq!(bytes.len(), HEADER_BYTES);
            assert_eq!(Header::read(&bytes), Some(header));
            assert_eq!(Header::read(&bytes[..HEADER_BYTES - 1]), None);
            for place in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[place] ^= 1;
                assert_eq!(Header::read(&changed), None, "byte {place}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_record_that_was_cut_or_changed_is_never_read(
            place in any::<prop::sample::Index>(), bit in 0..8u32, is_cut in any::<bool>()
        ) {
            let mut bytes = Vec::new();
            write_event(at(10, 2), &event(5, r#"{"1":2.5}"#), &mut bytes);
            let place = place.index(bytes.len());
            if is_cut {
                bytes.truncate(place);
                prop_assert!(matches!(first_record(&bytes), Found::Cut(wanted) if wanted > place));
            } else {
                bytes[place] ^= 1 << bit;
                let read = match first_record(&bytes) {
                    Found::Framed(framed) => framed.read(),
                    Found::Cut(_) | Found::Broken => None,
                };
                prop_assert_eq!(read, None);
            }
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Found::Framed(framed) = first_record(&bytes) {
                let _ = (framed.read(), framed.is_of_another(TenantId(1)), framed.commit_lsn());
            }
            let _ = Header::read(&bytes);
        }
    }
}
