//! All of a commit in one file: what is asked of each table, and what PostgreSQL is told once that was done. Whoever finds a commit
//! half done reads it, and does the rest.

use std::fmt;
use std::str::FromStr;

use iceberg::spec::{MAIN_BRANCH, Snapshot, SnapshotReference, SnapshotRetention};
use iceberg::{TableRequirement, TableUpdate};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sheaf_model::{BatchId, ChangePosition, EntityId, Op, TenantId, Timestamp};
use sheaf_store::lake::{CorrectionKey, CorrectionsChange, LakeCorrection, LakePosition};
use sheaf_store::reconcile::FactSum;
use sheaf_store::retention::Removal;
use uuid::Uuid;

use crate::error::{Cause, LakeError};
use crate::table::{Advance, TableState};

/// Which commit a table is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// One more with each commit of the lake: of two, the later one's is greater.
    pub(super) number: u64,
    pub(super) id: Uuid,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.number, self.id)
    }
}

impl FromStr for Mark {
    type Err = Cause;

    fn from_str(text: &str) -> Result<Mark, Cause> {
        let (number, id) = text.split_once('-').ok_or("no mark of a commit")?;
        Ok(Mark {
            number: number.parse()?,
            id: Uuid::parse_str(id)?,
        })
    }
}

impl Mark {
    /// What a table's properties, and the summary of each snapshot, say it by.
    pub(crate) const NAME: &str = "sheaf.commit";

    /// That of a table; absent before the first commit.
    pub(crate) fn of(state: &TableState) -> Result<Option<Mark>, LakeError> {
        let said = state.metadata.properties().get(Mark::NAME);
        let read = |text: &String| {
            let reading = LakeError::file("reading the mark of", state.metadata.location());
            text.parse().map_err(reading)
        };
        said.map(read).transpose()
    }

    /// That of the commit after this one.
    pub(super) fn after(before: Option<Mark>) -> Mark {
        Mark {
            number: before.map_or(0, |mark| mark.number) + 1,
            id: Uuid::new_v4(),
        }
    }

    /// Where the file of the commit is, beside the descriptions of the facts.
    pub(super) fn file(&self, facts: &TableState) -> String {
        format!(
            "{}/metadata/sheaf-commit-{self}.json",
            facts.metadata.location()
        )
    }
}

/// What a commit asks of one table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Asked {
    /// Its name.
    pub(super) table: String,
    /// Whether nothing of what was there before stays.
    pub(super) clears: bool,
    pub(super) requirements: Vec<TableRequirement>,
    pub(super) updates: Vec<TableUpdate>,
}

impl Asked {
    /// From exactly this state, what its files were written for.
    pub(super) fn new(state: &TableState, advance: Advance, mark: &Mark) -> Asked {
        let snapshot_id = advance.snapshot.snapshot_id();
        let retention = SnapshotRetention::branch(None, None, None);
        let mut updates = vec![
            TableUpdate::AddSnapshot {
                snapshot: advance.snapshot,
            },
            TableUpdate::SetSnapshotRef {
                ref_name: MAIN_BRANCH.to_owned(),
                reference: SnapshotReference::new(snapshot_id, retention),
            },
            TableUpdate::SetProperties {
                updates: [(Mark::NAME.to_owned(), mark.to_string())].into(),
            },
        ];
        if !advance.old.is_empty() {
            updates.push(TableUpdate::RemoveSnapshots {
                snapshot_ids: advance.old,
            });
        }
        Asked {
            table: state.table.name().to_owned(),
            clears: advance.clears,
            requirements: vec![
                TableRequirement::UuidMatch {
                    uuid: state.metadata.uuid(),
                },
                TableRequirement::RefSnapshotIdMatch {
                    r#ref: MAIN_BRANCH.to_owned(),
                    snapshot_id: state.metadata.current_snapshot_id(),
                },
            ],
            updates,
        }
    }

    /// The snapshot that it adds.
    pub(super) fn snapshot(&self) -> Option<&Snapshot> {
        self.updates.iter().find_map(|update| match update {
            TableUpdate::AddSnapshot { snapshot } => Some(snapshot),
            _ => None,
        })
    }

    /// Whether a state is the one that it was written for.
    pub(super) fn is_from(&self, state: &TableState) -> bool {
        let mut required = self.requirements.iter();
        required.all(|requirement| requirement.check(Some(&state.metadata)).is_ok())
    }

    pub(super) fn body(&self, namespace: &[String]) -> Value {
        json!({
            "identifier": {"namespace": namespace, "name": self.table},
            "requirements": self.requirements,
            "updates": self.updates,
        })
    }
}

/// A commit.
#[derive(Debug)]
pub(super) struct Intent {
    pub(super) mark: Mark,
    /// The commit that it began from; absent for the first.
    pub(super) before: Option<Mark>,
    /// What the lake holds after it. Its number is that of the database as the commit was begun.
    pub(super) position: LakePosition,
    pub(super) corrections: CorrectionsChange,
    /// In the order in which they are asked, the facts first.
    pub(super) tables: Vec<Asked>,
}

/// The form of the file.
#[derive(Serialize, Deserialize)]
struct File {
    mark: String,
    before: Option<String>,
    number: i64,
    base: Option<String>,
    snapshot: u64,
    stream: Option<String>,
    clears: bool,
    archived_before: Option<i64>,
    held_until: Option<String>,
    added: Vec<FileCorrection>,
    applied: Vec<FileKey>,
    repaired: Vec<FileKey>,
    removed: Vec<FileRemoval>,
    tables: Vec<Asked>,
}

/// Tenant, hour and whether late; facts and the sum of their hashes, as text, of all and of those that were hidden.
#[derive(Serialize, Deserialize)]
struct FileRemoval(i64, i64, bool, [(i64, String); 2]);

/// Instant, tenant, entity, place.
#[derive(Serialize, Deserialize)]
struct FileKey(i64, i64, i64, i16);

#[derive(Serialize, Deserialize)]
struct FileCorrection {
    key: FileKey,
    op: i8,
    batch: Uuid,
    ingested_at: i64,
    attrs: Box<str>,
}

impl FileKey {
    fn new(key: &CorrectionKey) -> FileKey {
        let instant = key.observed_at.as_micros();
        FileKey(instant, key.tenant.0, key.entity.0, key.seq)
    }

    fn key(&self) -> Result<CorrectionKey, Cause> {
        let FileKey(instant, tenant, entity, seq) = *self;
        Ok(CorrectionKey {
            observed_at: Timestamp::from_micros(instant)?,
            tenant: TenantId(tenant),
            entity: EntityId(entity),
            seq,
        })
    }
}

impl FileCorrection {
    fn new(correction: &LakeCorrection) -> FileCorrection {
        FileCorrection {
            key: FileKey::new(&correction.key),
            op: correction.op.letter(),
            batch: correction.batch.0,
            ingested_at: correction.ingested_at.as_micros(),
            attrs: correction.attrs.clone(),
        }
    }

    fn correction(self) -> Result<LakeCorrection, Cause> {
        Ok(LakeCorrection {
            key: self.key.key()?,
            op: Op::from_letter(self.op).ok_or("an op is none of ours")?,
            batch: BatchId(self.batch),
            ingested_at: Timestamp::from_micros(self.ingested_at)?,
            attrs: self.attrs,
        })
    }
}

impl FileRemoval {
    fn new(removal: &Removal) -> FileRemoval {
        let sum = |sum: FactSum| (sum.facts, sum.sum.to_string());
        let sums = [sum(removal.all), sum(removal.hidden)];
        FileRemoval(removal.tenant, removal.hour, removal.is_late, sums)
    }

    fn removal(self) -> Result<Removal, Cause> {
        let FileRemoval(tenant, hour, is_late, [all, hidden]) = self;
        let sum = |(facts, text): (i64, String)| -> Result<FactSum, Cause> {
            let sum = text.parse()?;
            Ok(FactSum { facts, sum })
        };
        Ok(Removal {
            tenant,
            hour,
            is_late,
            all: sum(all)?,
            hidden: sum(hidden)?,
        })
    }
}

impl Intent {
    pub(super) fn bytes(&self) -> Result<Vec<u8>, Cause> {
        let text = |position: Option<ChangePosition>| position.map(|at| at.to_string());
        let corrections = &self.corrections;
        let added = corrections.added.iter();
        let file = File {
            mark: self.mark.to_string(),
            before: self.before.map(|mark| mark.to_string()),
            number: self.position.number,
            base: text(self.position.base),
            snapshot: self.position.snapshot,
            stream: text(self.position.stream),
            clears: corrections.clears,
            archived_before: corrections.archived_before.map(Timestamp::as_micros),
            held_until: text(corrections.held_until),
            added: added.map(FileCorrection::new).collect(),
            applied: corrections.applied.iter().map(FileKey::new).collect(),
            repaired: corrections.repaired.iter().map(FileKey::new).collect(),
            removed: corrections.removed.iter().map(FileRemoval::new).collect(),
            tables: self.tables.clone(),
        };
        Ok(serde_json::to_vec(&file)?)
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Intent, Cause> {
        let file: File = serde_json::from_slice(bytes)?;
        let position = |text: Option<String>| {
            let read = text.map(|text| text.parse::<ChangePosition>());
            read.transpose()
        };
        let keys = |keys: Vec<FileKey>| keys.iter().map(FileKey::key).collect::<Result<_, Cause>>();
        let added = file.added.into_iter().map(FileCorrection::correction);
        let removed = file.removed.into_iter().map(FileRemoval::removal);
        let archived_before = file.archived_before.map(Timestamp::from_micros);
        Ok(Intent {
            mark: file.mark.parse()?,
            before: file.before.map(|text| text.parse()).transpose()?,
            position: LakePosition {
                number: file.number,
                base: position(file.base)?,
                snapshot: file.snapshot,
                stream: position(file.stream)?,
            },
            corrections: CorrectionsChange {
                clears: file.clears,
                archived_before: archived_before.transpose()?,
                held_until: position(file.held_until)?,
                added: added.collect::<Result<_, Cause>>()?,
                applied: keys(file.applied)?,
                repaired: keys(file.repaired)?,
                removed: removed.collect::<Result<_, Cause>>()?,
            },
            tables: file.tables,
        })
    }
}

#[cfg(test)]
mod tests {
    use sheaf_model::Lsn;

    use super::*;

    #[test]
    fn a_commit_reads_back_as_it_was_written() {
        let at = |lsn| ChangePosition {
            timeline: 2,
            commit_lsn: Lsn(lsn),
            ordinal: 7,
        };
        let key = CorrectionKey {
            observed_at: Timestamp::from_micros(-5).expect("a time"),
            tenant: TenantId(3),
            entity: EntityId(1 << 60),
            seq: 9,
        };
        let before = Mark::after(None);
        let intent = Intent {
            mark: Mark::after(Some(before)),
            before: Some(before),
            position: LakePosition {
                number: 12,
                base: Some(at(1)),
                snapshot: u64::MAX,
                stream: None,
            },
            corrections: CorrectionsChange {
                clears: true,
                archived_before: Some(key.observed_at),
                added: vec![LakeCorrection {
                    key,
                    op: Op::Correct,
                    batch: BatchId(Uuid::from_u128(4)),
                    ingested_at: key.observed_at,
                    attrs: r#"{"1":null}"#.into(),
                }],
                held_until: Some(at(2)),
                applied: vec![key],
                repaired: vec![key, key],
                removed: vec![Removal {
                    tenant: 3,
                    hour: -1,
                    is_late: true,
                    all: FactSum {
                        facts: 2,
                        sum: u128::MAX,
                    },
                    hidden: FactSum { facts: 1, sum: 5 },
                }],
            },
            tables: Vec::new(),
        };
        let read = Intent::read(&intent.bytes().expect("it is written")).expect("it is read");
        assert_eq!(format!("{read:?}"), format!("{intent:?}"));
        assert_eq!(read.mark.number, 2);
        assert!(Intent::read(b"{}").is_err());
    }
}
