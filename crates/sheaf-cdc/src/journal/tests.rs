//! A journal over a folder, without a database.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::task::{Context, Waker};

use sheaf_model::{BatchId, EntityId, Op, Timestamp};
use sheaf_testkit::{Injected, ScratchDir};
use uuid::Uuid;

use super::files::path_of;
use super::*;
use crate::change::{Change, EventRow};

const SYSTEM: u64 = 42;
const OURS: TenantId = TenantId(1);
const THEIRS: TenantId = TenantId(2);
const SMALL: Bounds = Bounds {
    bytes_max: 4_000,
    segment_bytes: 1_000,
};

fn at(commit_lsn: u64, ordinal: u64) -> ChangePosition {
    ChangePosition {
        timeline: 1,
        commit_lsn: Lsn(commit_lsn),
        ordinal,
    }
}

/// Events of one transaction, one for each of these tenants.
fn batch(commit_lsn: u64, first: u64, tenants: &[TenantId], is_end: bool) -> Batch {
    let change = |(place, tenant): (u64, &TenantId)| Change {
        position: at(commit_lsn, place),
        xid: 7,
        committed_at: Timestamp::MIN,
        row: ChangedRow::Event(EventRow {
            tenant: *tenant,
            entity: EntityId(9),
            observed_at: Timestamp::MIN,
            seq: 0,
            op: Op::Patch,
            batch: BatchId(Uuid::nil()),
            ingested_at: Timestamp::MIN,
            attrs: format!(r#"{{"1":{commit_lsn}}}"#).into(),
        }),
    };
    Batch {
        origin: Origin::Stream,
        changes: (first..).zip(tenants).map(change).collect(),
        is_end,
    }
}

struct Opened {
    sink: JournalSink,
    journal: Journal,
}

impl Opened {
    fn over(dir: &Path, bounds: Bounds) -> Opened {
        let (sink, journal) = Journal::new("journal", dir, bounds, SYSTEM);
        Opened { sink, journal }
    }

    async fn begun(dir: &Path, bounds: Bounds, base: u64) -> Opened {
        let mut opened = Opened::over(dir, bounds);
        opened.sink.held().await.expect("it opens");
        opened.sink.begin(at(base, 0)).await.expect("it begins");
        opened
    }

    async fn take(&mut self, batch: &Batch) {
        self.sink.apply(batch).await.expect("it is written");
    }

    /// What a reader finds from a position on: commit and place of each event, and how far that is.
    fn read(&self, tenant: TenantId, from: u64) -> (Vec<(u64, u64)>, u64) {
        let mut reader = self.journal.read_from(tenant, Lsn(from)).expect("kept");
        let mut found = Vec::new();
        while !reader.is_at_end() {
            let piece = reader.read().expect("it can be read");
            assert!(piece.events.iter().all(|event| event.tenant == tenant));
            found.extend(
                piece
                    .events
                    .iter()
                    .map(|event| (event.commit_lsn.0, event.ordinal)),
            );
        }
        (found, reader.through().0)
    }
}

#[tokio::test]
async fn a_reader_finds_what_its_tenant_has_from_a_position_on() {
    let dir = ScratchDir::new("journal").expect("a directory");
    let mut opened = Opened::begun(dir.path(), SMALL, 99).await;
    assert_eq!(
        opened.journal.kept(),
        Some(Kept {
            timeline: 1,
            from: Lsn(100)
        })
    );
    opened
        .take(&batch(100, 1, &[OURS, THEIRS, OURS], true))
        .await;
    opened.take(&batch(200, 1, &[THEIRS], true)).await;
    // A transaction whose end has not come.
    opened.take(&batch(300, 1, &[OURS], false)).await;
    assert_eq!(
        opened.read(OURS, 100),
        (vec![(100, 1), (100, 3), (300, 1)], 300)
    );
    assert_eq!(opened.read(THEIRS, 100), (vec![(100, 2), (200, 1)], 300));
    // A position is before what was committed there, whole transactions at a time.
    assert_eq!(opened.read(OURS, 101), (vec![(300, 1)], 300));
    opened.take(&batch(300, 2, &[THEIRS], true)).await;
    assert_eq!(opened.read(OURS, 300), (vec![(300, 1)], 301));
    // One ahead of everything: what comes before it is passed over.
    assert_eq!(opened.read(OURS, 1_000), (vec![], 1_000));
    assert!(opened.journal.read_from(OURS, Lsn(99)).is_none());
}

#[tokio::test]
async fn the_oldest_files_go_and_whoever_was_in_them_is_told() {
    let dir = ScratchDir::new("journal").expect("a directory");
    let mut opened = Opened::begun(dir.path(), SMALL, 99).await;
    let mut slow = opened.journal.read_from(OURS, Lsn(100)).expect("kept");
    for commit_lsn in (100..6_000).step_by(100) {
        opened.take(&batch(commit_lsn, 1, &[OURS; 3], true)).await;
        let bytes: u64 = fs::read_dir(dir.path())
            .expect("a folder")
            .map(|file| file.and_then(|file| file.metadata()).expect("a file").len())
            .sum();
        assert!(bytes <= SMALL.bytes_max, "{bytes}");
    }
    let kept = opened.journal.kept().expect("open").from;
    assert!(kept > Lsn(101), "{kept}");
    // It begins with a whole transaction, and nothing after it is missing.
    let (found, through) = opened.read(OURS, kept.0);
    let first = found[0].0;
    assert_eq!(first, kept.0 - 1 + 100);
    let wanted = (first..6_000).step_by(100);
    let wanted: Vec<(u64, u64)> = wanted
        .flat_map(|commit_lsn| (1..=3).map(move |place| (commit_lsn, place)))
        .collect();
    assert_eq!((found, through), (wanted, 5_901));
    assert!(opened.journal.read_from(OURS, Lsn(kept.0 - 1)).is_none());
    assert!(matches!(slow.read(), Err(JournalFault::Left)));
}

#[tokio::test]
async fn a_cut_at_any_byte_loses_what_was_cut_and_it_comes_again_once() {
    let cut = Injected::new("cut of the journal");
    let whole = [
        batch(100, 1, &[OURS, THEIRS], true),
        batch(200, 1, &[OURS], false),
        batch(200, 2, &[OURS], true),
    ];
    let dir = ScratchDir::new("journal").expect("a directory");
    let mut opened = Opened::begun(dir.path(), SMALL, 99).await;
    for one in &whole {
        opened.take(one).await;
    }
    let path = path_of(dir.path(), 1);
    let bytes = fs::read(&path).expect("a file");
    drop(opened);
    for length in layout::HEADER_BYTES..bytes.len() {
        fs::write(&path, &bytes[..length]).expect("it can be cut");
        let mut opened = Opened::over(dir.path(), SMALL);
        let held = opened.sink.held().await.expect("it opens");
        let Held::Until(held) = held else {
            panic!("{held:?}");
        };
        assert!(held.base == at(99, 0) && held.stream <= Some(at(200, 2)));
        for one in &whole {
            opened.take(one).await;
        }
        let (found, through) = opened.read(OURS, 100);
        assert_eq!(found, [(100, 1), (200, 1), (200, 2)], "cut at {length}");
        // Without the last mark it is not known that nothing of the transaction follows, until something does.
        assert!(
            through == 201 || through == 200 && length > bytes.len() - 30,
            "cut at {length}: {through}"
        );
        opened.take(&batch(300, 1, &[THEIRS], true)).await;
        assert_eq!(opened.read(OURS, 100).1, 301, "cut at {length}");
        cut.count();
    }
    cut.require();
}

#[tokio::test]
async fn what_another_cluster_wrote_or_nobody_is_no_journal() {
    let dir = ScratchDir::new("journal").expect("a directory");
    let mut opened = Opened::begun(dir.path(), SMALL, 99).await;
    opened.take(&batch(100, 1, &[OURS], true)).await;
    drop(opened);
    let (mut other, _) = Journal::new("journal", dir.path(), SMALL, SYSTEM + 1);
    assert_eq!(other.held().await.expect("it opens"), Held::Nothing);
    drop(other);
    let path = path_of(dir.path(), 1);
    fs::write(&path, b"something else").expect("it can be written");
    let mut opened = Opened::over(dir.path(), SMALL);
    assert_eq!(opened.sink.held().await.expect("it opens"), Held::Nothing);
    assert_eq!(opened.journal.kept(), None);
    opened.sink.begin(at(500, 0)).await.expect("it begins");
    assert!(!path.exists());
    assert_eq!(opened.read(OURS, 501), (vec![], 501));
}

#[tokio::test]
async fn files_on_both_sides_of_a_gap_are_not_one_journal() {
    let dir = ScratchDir::new("journal").expect("a directory");
    let mut opened = Opened::begun(dir.path(), SMALL, 99).await;
    for commit_lsn in (100..2_000).step_by(100) {
        opened.take(&batch(commit_lsn, 1, &[OURS; 3], true)).await;
    }
    let newest = opened.journal.view.borrow().as_ref().map(|view| view.end.0);
    let newest = newest.expect("open");
    assert!(newest > 3, "{newest}");
    drop(opened);
    fs::remove_file(path_of(dir.path(), newest - 1)).expect("it was there");
    let mut opened = Opened::over(dir.path(), SMALL);
    let held = opened.sink.held().await.expect("it opens");
    assert!(
        matches!(held, Held::Until(held) if held.stream == Some(at(1_900, 3))),
        "{held:?}"
    );
    let kept = opened.journal.kept().expect("open").from;
    assert!(opened.journal.read_from(OURS, Lsn(kept.0 - 1)).is_none());
    let (found, _) = opened.read(OURS, kept.0);
    assert_eq!(found.last(), Some(&(1_900, 3)));
    assert!(!path_of(dir.path(), newest - 2).exists());
}

#[tokio::test]
async fn whoever_reads_it_when_it_begins_anew_is_told() {
    let dir = ScratchDir::new("journal").expect("a directory");
    let mut opened = Opened::begun(dir.path(), SMALL, 99).await;
    opened.take(&batch(100, 1, &[OURS], true)).await;
    let mut reader = opened.journal.read_from(OURS, Lsn(100)).expect("kept");
    assert_eq!(reader.read().expect("it can be read").events.len(), 1);
    // The same once more, as after an error.
    opened.sink.held().await.expect("it opens");
    assert!(reader.is_at_end());
    opened.sink.begin(at(500, 0)).await.expect("it begins");
    reader.wait().await.expect("there is something new");
    assert!(matches!(reader.read(), Err(JournalFault::Left)));
    assert!(opened.journal.read_from(OURS, Lsn(100)).is_none());
    let mut reader = opened.journal.read_from(OURS, Lsn(501)).expect("kept");
    assert!(reader.is_at_end());
    drop(opened);
    let ended = reader.wait().await.expect_err("nobody writes any more");
    assert!(matches!(ended, JournalFault::Closed), "{ended}");
}

#[tokio::test]
async fn one_has_the_folder_open_at_a_time_and_only_its_owner_reads_it() {
    let dir = ScratchDir::new("journal").expect("a directory");
    let dir = dir.path().join("journal");
    let mut opened = Opened::begun(&dir, SMALL, 99).await;
    opened.take(&batch(100, 1, &[OURS; 9], true)).await;
    opened.take(&batch(200, 1, &[OURS; 9], true)).await;
    let mut other = Opened::over(&dir, SMALL);
    // Neither to read what is there nor to empty it.
    let refused = [
        other.sink.held().await.err(),
        other.sink.begin(at(500, 0)).await.err(),
    ];
    for error in refused {
        let error = error.expect("the folder is taken");
        let cause = error.source.to_string();
        assert!(cause.contains("another process"), "{cause}");
    }
    assert_eq!(other.journal.kept(), None);
    // Asked again, as after an error, it has it still; and lets go of it where nobody feeds it.
    opened.sink.held().await.expect("it opens");
    opened.take(&batch(300, 1, &[OURS], true)).await;
    opened.sink.leave().await.expect("it is left");
    assert!(matches!(other.sink.held().await, Ok(Held::Until(_))));
    assert!(
        opened
            .sink
            .apply(&batch(400, 1, &[OURS], true))
            .await
            .is_err()
    );
    assert!(opened.sink.held().await.is_err());
    other.take(&batch(400, 1, &[OURS], true)).await;
    assert_eq!(other.read(OURS, 300), (vec![(300, 1), (400, 1)], 401));
    let mode = |path: &Path| {
        fs::metadata(path)
            .expect("it is there")
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode(&dir), 0o700);
    let mut files = 0;
    for entry in fs::read_dir(&dir).expect("a folder") {
        let path = entry.expect("a file").path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        files += 1;
    }
    assert!(files > 2, "{files}");
}

#[tokio::test]
async fn a_write_that_was_left_in_the_middle_is_there_once_or_not_at_all() {
    let left = Injected::new("write that was left");
    let dir = ScratchDir::new("journal").expect("a directory");
    let mut opened = Opened::begun(dir.path(), Bounds::of(1 << 20), 99).await;
    for commit_lsn in (100..3_000).step_by(100) {
        let batch = batch(commit_lsn, 1, &[OURS], true);
        // The write is under way when its future was polled once, and nobody waits for it.
        let files = Arc::clone(&opened.sink.files);
        let busy = files.lock().expect("not poisoned");
        let mut write = opened.sink.apply(&batch);
        let polled = write.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
        drop(write);
        drop(busy);
        left.count();
        let held = opened.sink.held().await.expect("it opens");
        assert!(matches!(held, Held::Until(_)), "{held:?}");
        opened.take(&batch).await;
    }
    let wanted: Vec<(u64, u64)> = (100..3_000).step_by(100).map(|lsn| (lsn, 1)).collect();
    assert_eq!(opened.read(OURS, 100), (wanted, 2_901));
    left.require();
}

#[tokio::test]
async fn a_byte_that_changed_on_disk_is_found_when_it_is_read() {
    let dir = ScratchDir::new("journal").expect("a directory");
    let mut opened = Opened::begun(dir.path(), Bounds::of(1 << 20), 99).await;
    opened.take(&batch(100, 1, &[OURS], true)).await;
    let mut reader = opened.journal.read_from(OURS, Lsn(100)).expect("kept");
    let path = path_of(dir.path(), 1);
    let mut bytes = fs::read(&path).expect("a file");
    let place = layout::HEADER_BYTES + 60;
    bytes[place] ^= 1;
    fs::write(&path, bytes).expect("it can be written");
    assert!(matches!(
        reader.read(),
        Err(JournalFault::Broken { segment: 1, .. })
    ));
}
