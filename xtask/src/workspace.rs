//! The crates of the workspace and what their manifests say, from `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// The crates by name.
pub(crate) struct Workspace {
    pub(crate) crates: BTreeMap<String, Crate>,
}

/// One crate: where it is and the names of its direct dependencies.
#[derive(Clone, Default)]
pub(crate) struct Crate {
    pub(crate) directory: PathBuf,
    pub(crate) depends_on: BTreeSet<String>,
    pub(crate) depends_on_in_tests: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

impl Workspace {
    pub(crate) fn read() -> Result<Self> {
        let output = Command::new(cargo())
            .args(["metadata", "--format-version=1", "--no-deps", "--locked"])
            .current_dir(root())
            .output()
            .context("starting cargo metadata")?;
        ensure!(
            output.status.success(),
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let metadata: Metadata = serde_json::from_slice(&output.stdout)
            .context("reading the answer of cargo metadata")?;
        let crates = metadata.packages.into_iter().map(|package| {
            let directory = package.manifest_path.parent().unwrap_or(Path::new("/"));
            let mut found = Crate {
                directory: directory.to_path_buf(),
                ..Crate::default()
            };
            for dependency in package.dependencies {
                // A build dependency is code that runs, so it counts as an ordinary one.
                let names = match dependency.kind.as_deref() {
                    Some("dev") => &mut found.depends_on_in_tests,
                    _ => &mut found.depends_on,
                };
                names.insert(dependency.name);
            }
            (package.name, found)
        });
        Ok(Workspace {
            crates: crates.collect(),
        })
    }
}

/// The workspace's root directory.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is a directory of the workspace")
}

/// The cargo that started us.
pub(crate) fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
