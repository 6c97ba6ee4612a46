//! What is left of an interrupted run.

use super::*;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let dir = format!("sheaf-progress-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(dir);
        std::fs::create_dir_all(&path).expect("temp dir");
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn progress() -> Progress {
    Progress {
        run_id: RunId("0123".to_owned()),
        batch_rows: 10,
        plan: None,
        batches: 3,
        last_batch_id: Some("b_1".to_owned()),
        position: Position {
            offset: 100,
            line: 31,
        },
        rejected_bytes: 0,
        totals: Totals {
            events: 30,
            ..Totals::default()
        },
    }
}

fn refusal(line: u64) -> Refused {
    Refused {
        line,
        field: None,
        code: "missing_id".to_owned(),
        reason: "no id".to_owned(),
    }
}

#[test]
fn progress_reads_back_until_the_import_is_complete() {
    let dir = Scratch::new("file");
    let file = ProgressFile::open(&dir.0, "x").expect("opens");
    assert_eq!(file.read().expect("reads"), None);
    file.write(&progress()).expect("writes");
    assert_eq!(file.read().expect("reads"), Some(progress()));
    let second = ProgressFile::open(&dir.0, "x");
    assert!(second.is_err(), "two runs of one import at once");
    file.remove().expect("removes");
    let again = ProgressFile::open(&dir.0, "x").expect("opens");
    assert_eq!(again.read().expect("reads"), None);
}

#[test]
fn a_file_that_is_not_ours_is_an_error() {
    let dir = Scratch::new("foreign");
    std::fs::write(dir.0.join("x.json"), "{}").expect("temp dir");
    let file = ProgressFile::open(&dir.0, "x").expect("opens");
    let error = file.read().expect_err("not ours");
    assert!(error.to_string().contains("remove it"), "{error}");
}

#[test]
fn the_list_goes_back_to_what_was_written_down() {
    let dir = Scratch::new("list");
    let path = dir.0.join("r.ndjson");
    let lines = || std::fs::read_to_string(&path).map_or(0, |text| text.lines().count());
    let mut list = RejectedList::open(path.clone(), 0)
        .expect("opens")
        .expect("new");
    list.append(&[]).expect("nothing");
    assert!(!path.exists(), "no refusal, no list");
    let one = list.append(&[refusal(1)]).expect("appends");
    list.append(&[refusal(2), refusal(3)]).expect("appends");
    assert_eq!(lines(), 3);
    drop(list);
    let mut list = RejectedList::open(path.clone(), one)
        .expect("opens")
        .expect("long enough");
    list.append(&[refusal(2)]).expect("appends");
    assert_eq!(lines(), 2);
    drop(list);
    std::fs::write(&path, "").expect("shortens");
    assert!(
        RejectedList::open(path.clone(), one)
            .expect("opens")
            .is_none()
    );
    RejectedList::open(path.clone(), 0)
        .expect("opens")
        .expect("new");
    assert!(!path.exists(), "a list of an earlier import does not stay");
}
