//! Rules on the text of the sources that neither the compiler nor clippy knows.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::workspace::{Workspace, root};

/// They may read the environment, and are not held to the rules of the product.
const TOOLS: [&str; 2] = ["sheaf-testkit", "xtask"];

/// Calls that leave a named statement on the server, which the next transaction does not find again behind a pooler.
const NAMED_STATEMENTS: [&str; 6] = [
    ".prepare(",
    ".prepare_typed(",
    "client.query(",
    "client.query_one(",
    "client.query_opt(",
    "client.execute(",
];
/// It measures PostgreSQL itself over direct connections.
const MAY_NAME_STATEMENTS: &str = "crates/sheaf/src/bench/";

pub(crate) fn violations(workspace: &Workspace) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (name, krate) in &workspace.crates {
        let manifest = krate.directory.join("Cargo.toml");
        let text = std::fs::read_to_string(&manifest)
            .with_context(|| format!("reading {}", manifest.display()))?;
        if !text.contains("[lints]\nworkspace = true") {
            found.push(format!("{name}: does not take the workspace's lints"));
        }
        if TOOLS.contains(&name.as_str()) {
            continue;
        }
        let files = rust_files(&krate.directory.join("src"))?;
        ensure!(!files.is_empty(), "no sources of {name} found");
        for file in files {
            let text = std::fs::read_to_string(&file)
                .with_context(|| format!("reading {}", file.display()))?;
            let shown = file
                .strip_prefix(root())
                .unwrap_or(&file)
                .display()
                .to_string();
            found.extend(violations_in(name, &shown, &text));
        }
    }
    Ok(found)
}

/// Looks at one file up to its tests.
fn violations_in(krate: &str, file: &str, text: &str) -> Vec<String> {
    if file.ends_with("/tests.rs") || file.contains("/tests/") {
        return Vec::new();
    }
    let mut found = Vec::new();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    for (index, line) in lines.iter().enumerate() {
        // A test module is the last thing in a file; a mere `mod tests;` may stand anywhere.
        let next = lines.get(index + 1).unwrap_or(&"");
        if *line == "#[cfg(test)]" && next.starts_with("mod ") && next.contains('{') {
            break;
        }
        if line.starts_with("//") {
            continue;
        }
        let mut report = |reason: &str| found.push(format!("{file}:{}: {reason}", index + 1));
        if krate != "sheaf" && line.contains("env::var") {
            report("only the crate sheaf reads the environment");
        }
        let sql = ["SELECT ", "INSERT INTO ", "UPDATE ", "DELETE FROM "];
        if krate == "sheaf-server" && sql.iter().any(|word| line.contains(word)) {
            report("the server has no SQL");
        }
        if line.contains(".unwrap()") {
            report("unwrap outside tests");
        }
        // A chain that was too long for one line begins with its receiver alone.
        let previous = index.checked_sub(1).map_or("", |before| lines[before]);
        let receiver = match line.starts_with('.') && previous.ends_with("client") {
            true => "client",
            false => "",
        };
        let whole = format!("{receiver}{line}");
        let names = NAMED_STATEMENTS.iter().any(|call| whole.contains(call));
        if names && !file.starts_with(MAY_NAME_STATEMENTS) {
            report("a named statement, which a transaction pooler loses");
        }
    }
    found
}

fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries =
        std::fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_names_the_line_that_breaks_it() {
        let text = "#[cfg(test)]\nmod tests;\n// env::var\nlet a = std::env::var(\"A\");\nlet q = \"SELECT 1\";\na.unwrap();\n";
        assert_eq!(
            violations_in("sheaf-server", "src/lib.rs", text),
            [
                "src/lib.rs:4: only the crate sheaf reads the environment",
                "src/lib.rs:5: the server has no SQL",
                "src/lib.rs:6: unwrap outside tests",
            ]
        );
    }

    #[test]
    fn tests_may_unwrap_and_the_executable_may_read_the_environment() {
        let text = "let a = std::env::var(\"A\");\n#[cfg(test)]\nmod tests { a.unwrap() }\n";
        assert_eq!(
            violations_in("sheaf", "src/main.rs", text),
            Vec::<String>::new()
        );
        let test = violations_in("sheaf-pg", "src/url/tests.rs", "a.unwrap();");
        assert_eq!(test, Vec::<String>::new());
    }

    #[test]
    fn named_statements_are_for_the_bench_and_for_tests() {
        for call in NAMED_STATEMENTS {
            let text = format!("let found = {call}sql, &[]).await?;\n");
            let store = violations_in("sheaf-store", "crates/sheaf-store/src/keys.rs", &text);
            let line = "crates/sheaf-store/src/keys.rs:1";
            assert_eq!(
                store,
                [format!(
                    "{line}: a named statement, which a transaction pooler loses"
                )]
            );
            for file in [
                "crates/sheaf/src/bench/read.rs",
                "crates/sheaf-store/src/keys/tests.rs",
            ] {
                assert_eq!(violations_in("sheaf", file, &text), Vec::<String>::new());
            }
        }
        let chain = "client\n    .query(sql, &[])\n    .await?;\n";
        let found = violations_in("sheaf-pg", "src/pool.rs", chain);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("src/pool.rs:2: "), "{found:?}");
        let typed = violations_in("sheaf-pg", "src/pool.rs", "client.query_typed(sql, &[])");
        assert_eq!(typed, Vec::<String>::new());
    }

    #[test]
    fn the_sources_keep_to_the_rules() {
        let workspace = Workspace::read().expect("cargo metadata answers");
        let found = violations(&workspace).expect("the sources can be read");
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}
