//! What the description of the lake's table of facts says of its commits.

use anyhow::{Context, Result};
use serde_json::Value;

/// One commit of the table, or of files in place of others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Commit {
    /// In milliseconds since 1970.
    pub(super) at_ms: u64,
    /// Facts in the files that it added, and their bytes.
    pub(super) added: u64,
    pub(super) added_bytes: u64,
    /// Facts of the table after it.
    pub(super) total: u64,
}

/// The commits of a description, oldest first.
pub(super) fn read(description: &str) -> Result<Vec<Commit>> {
    let description: Value = serde_json::from_str(description)?;
    // A table without any has no member.
    let snapshots = description["snapshots"].as_array();
    let mut commits = Vec::new();
    for snapshot in snapshots.into_iter().flatten() {
        let order = snapshot["sequence-number"].as_u64();
        let number = |name: &str| {
            let text = snapshot["summary"][name].as_str();
            let number = text.and_then(|text| text.parse().ok());
            number.with_context(|| format!("a snapshot does not say {name}"))
        };
        let commit = Commit {
            at_ms: snapshot["timestamp-ms"]
                .as_u64()
                .context("a snapshot does not say when it was made")?,
            added: number("added-records")?,
            added_bytes: number("added-files-size")?,
            total: number("total-records")?,
        };
        commits.push((order.context("a snapshot has no number")?, commit));
    }
    commits.sort_unstable_by_key(|(order, _)| *order);
    Ok(commits.into_iter().map(|(_, commit)| commit).collect())
}

/// Facts a second from a moment on until the last commit of a full file. The one after it had to wait for more to come.
pub(super) fn sustained(commits: &[Commit], begun_ms: u64, held: u64) -> Option<f64> {
    let mut most = held;
    let mut grown = Vec::new();
    for commit in commits.iter().filter(|commit| commit.at_ms >= begun_ms) {
        if commit.total > most {
            most = commit.total;
            grown.push(commit);
        }
    }
    grown.pop();
    let last = grown.last()?;
    let seconds = (last.at_ms - begun_ms) as f64 / 1000.0;
    (seconds > 0.0).then(|| (last.total - held) as f64 / seconds)
}

/// Bytes of a fact in the files that were added since a moment.
pub(super) fn bytes_per_fact(commits: &[Commit], begun_ms: u64) -> f64 {
    let since = || commits.iter().filter(|commit| commit.at_ms >= begun_ms);
    let bytes: u64 = since().map(|commit| commit.added_bytes).sum();
    let facts: u64 = since().map(|commit| commit.added).sum();
    bytes as f64 / facts as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(at_ms: u64, added: u64, total: u64) -> Commit {
        Commit {
            at_ms,
            added,
            added_bytes: 3 * added,
            total,
        }
    }

    #[test]
    fn commits_come_in_the_order_of_their_numbers() {
        let snapshot = |number: u64, total: u64| {
            serde_json::json!({
                "sequence-number": number, "timestamp-ms": number * 10,
                "summary": {"added-records": "2", "added-files-size": "6", "total-records": total.to_string()},
            })
        };
        let description = serde_json::json!({ "snapshots": [snapshot(2, 4), snapshot(1, 2)] });
        let commits = read(&description.to_string()).expect("must work");
        assert_eq!(commits, [commit(10, 2, 2), commit(20, 2, 4)]);
        assert_eq!(read("{}").expect("must work"), []);
        let silent = serde_json::json!({ "snapshots": [{"sequence-number": 1}] });
        assert!(read(&silent.to_string()).is_err());
    }

    #[test]
    fn what_waits_for_more_is_no_part_of_what_is_sustained() {
        let commits = [
            commit(500, 10, 10),
            commit(2_000, 100, 110),
            commit(3_000, 100, 210),
            // Files were joined.
            commit(7_000, 210, 210),
            commit(8_000, 5, 215),
        ];
        assert_eq!(sustained(&commits, 1_000, 10), Some(100.0));
        assert_eq!(sustained(&commits[..2], 1_000, 10), None);
        assert_eq!(sustained(&[], 1_000, 0), None);
    }

    #[test]
    fn bytes_are_those_of_files_since_then() {
        let before = Commit {
            added_bytes: 1_000,
            ..commit(1, 1, 1)
        };
        let commits = [before, commit(5, 10, 11), commit(6, 20, 31)];
        assert_eq!(bytes_per_fact(&commits, 5), 3.0);
        assert!(bytes_per_fact(&commits, 7).is_nan());
    }
}
