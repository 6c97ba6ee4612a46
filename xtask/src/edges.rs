//! The table of allowed dependency edges in ARCHITECTURE.md, compared with the manifests in both directions,
//! and the outside crates that some crates must not know.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

use crate::workspace::{Workspace, root};

/// The heading that the table stands under.
const HEADING: &str = "## Allowed dependency edges";

const DATABASE: [&str; 3] = ["tokio-postgres", "postgres-types", "deadpool-postgres"];
const WEB: [&str; 3] = ["axum", "tower-http", "hyper"];

/// Crates and the outside crates that would let them do what they must not.
const MUST_NOT_KNOW: [(&str, &[&str], &str); 6] = [
    ("sheaf-model", &["tokio"], "the model does no I/O"),
    ("sheaf-model", &DATABASE, "the model does no I/O"),
    ("sheaf-server", &DATABASE, "the server has no SQL"),
    ("sheaf-store", &WEB, "the store has no HTTP"),
    ("sheaf-ingest", &WEB, "ingest has no web framework"),
    ("sheaf-query", &WEB, "query has no web framework"),
];

/// What one crate may depend on.
#[derive(Debug, Default, PartialEq, Eq)]
struct Allowed {
    always: BTreeSet<String>,
    in_tests: BTreeSet<String>,
}

pub(crate) fn violations(workspace: &Workspace) -> Result<Vec<String>> {
    let document = std::fs::read_to_string(root().join("ARCHITECTURE.md"))
        .context("reading ARCHITECTURE.md")?;
    let mut found = compare(workspace, &table(&document));
    for (name, outside, reason) in MUST_NOT_KNOW {
        let Some(krate) = workspace.crates.get(name) else {
            continue;
        };
        for dependency in outside {
            if krate.depends_on.contains(*dependency) {
                found.push(format!("{name} depends on {dependency}: {reason}"));
            }
        }
    }
    Ok(found)
}

/// The rows of the first table under the heading.
fn table(document: &str) -> BTreeMap<String, Allowed> {
    let names = |cell: &str| {
        cell.split(',')
            .map(|name| name.trim().trim_matches('`').to_owned())
            .filter(|name| !name.is_empty())
            .collect()
    };
    document
        .lines()
        .skip_while(|line| line.trim() != HEADING)
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            let mut cells = line.trim_matches('|').split('|').map(str::trim);
            let mut cell = || cells.next().unwrap_or_default();
            let name = cell().trim_matches('`').to_owned();
            let allowed = Allowed {
                always: names(cell()),
                in_tests: names(cell()),
            };
            (name, allowed)
        })
        .collect()
}

fn compare(workspace: &Workspace, table: &BTreeMap<String, Allowed>) -> Vec<String> {
    let mut found = Vec::new();
    for name in table.keys() {
        if !workspace.crates.contains_key(name) {
            found.push(format!("ARCHITECTURE.md lists {name}, which is no crate"));
        }
    }
    for (name, krate) in &workspace.crates {
        let Some(allowed) = table.get(name) else {
            found.push(format!("ARCHITECTURE.md does not list {name}"));
            continue;
        };
        let ours = |names: &BTreeSet<String>| -> BTreeSet<String> {
            let inside = names
                .iter()
                .filter(|name| workspace.crates.contains_key(*name));
            inside.cloned().collect()
        };
        for (used, listed, place) in [
            (ours(&krate.depends_on), &allowed.always, ""),
            (
                ours(&krate.depends_on_in_tests),
                &allowed.in_tests,
                " in tests",
            ),
        ] {
            for edge in used.difference(listed) {
                found.push(format!(
                    "{name} depends on {edge}{place}, which ARCHITECTURE.md does not allow"
                ));
            }
            for edge in listed.difference(&used) {
                found.push(format!(
                    "ARCHITECTURE.md allows {name} to depend on {edge}{place}, which it does not"
                ));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Crate;

    const DOCUMENT: &str = "\
| crate | note |\n|---|---|\n| c | not this table |\n\n## Allowed dependency edges\n\ntext\n\n\
| crate | may depend on | and in tests on |\n|---|---|---|\n| `a` | b | |\n| b | | c |\n| c | | |\n\n| d | a |\n";

    fn workspace(edges: &[(&str, &[&str], &[&str])]) -> Workspace {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let crates = edges.iter().map(|(name, always, in_tests)| {
            let krate = Crate {
                depends_on: set(always),
                depends_on_in_tests: set(in_tests),
                ..Crate::default()
            };
            ((*name).to_owned(), krate)
        });
        Workspace {
            crates: crates.collect(),
        }
    }

    #[test]
    fn manifests_that_match_the_table_are_accepted() {
        let exact = workspace(&[
            ("a", &["b", "serde"], &[]),
            ("b", &[], &["c"]),
            ("c", &[], &[]),
        ]);
        assert_eq!(compare(&exact, &table(DOCUMENT)), Vec::<String>::new());
    }

    #[test]
    fn an_edge_that_the_table_lacks_is_found() {
        let more = workspace(&[("a", &["b"], &[]), ("b", &["c"], &["c"]), ("c", &[], &[])]);
        assert_eq!(
            compare(&more, &table(DOCUMENT)),
            ["b depends on c, which ARCHITECTURE.md does not allow"]
        );
    }

    #[test]
    fn an_entry_that_no_manifest_uses_is_found() {
        let less = workspace(&[("a", &[], &[]), ("b", &[], &["c"]), ("c", &[], &[])]);
        assert_eq!(
            compare(&less, &table(DOCUMENT)),
            ["ARCHITECTURE.md allows a to depend on b, which it does not"]
        );
    }

    #[test]
    fn a_crate_without_a_row_and_a_row_without_a_crate_are_found() {
        let other = workspace(&[("a", &["b"], &[]), ("b", &[], &[]), ("e", &[], &[])]);
        assert_eq!(
            compare(&other, &table(DOCUMENT)),
            [
                "ARCHITECTURE.md lists c, which is no crate",
                "ARCHITECTURE.md allows b to depend on c in tests, which it does not",
                "ARCHITECTURE.md does not list e",
            ]
        );
    }

    #[test]
    fn the_workspace_keeps_to_the_table() {
        let workspace = Workspace::read().expect("cargo metadata answers");
        let found = violations(&workspace).expect("ARCHITECTURE.md is there");
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}
