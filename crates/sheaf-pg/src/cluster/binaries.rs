//! Where the programs of PostgreSQL are.
//!
//! A `postgres` in the search path may be a wrapper or a client-only package, so a directory counts only if it
//! holds `initdb` too and its `postgres` tells its version. Nothing here reads the environment: the caller passes
//! what it wants searched.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::ClusterError;

/// The oldest major version that the schema and the change stream work on.
pub const MAJOR_VERSION_MIN: u32 = 15;

/// Where Debian and Ubuntu keep one directory a major version.
const DEBIAN_ROOT: &str = "/usr/lib/postgresql";

/// A directory with the programs of one PostgreSQL installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    dir: PathBuf,
    major_version: u32,
}

impl Binaries {
    /// Looks in `given` (alone, if there is one), else in the directories of `search_path`, what `pg_config` there
    /// says, and Debian's directories, newest first. The first that is new enough is taken.
    ///
    /// # Errors
    /// [`ClusterError::NotFound`] or [`ClusterError::TooOld`].
    pub fn find(given: Option<&Path>, search_path: &OsStr) -> Result<Self, ClusterError> {
        Self::find_below(given, search_path, Path::new(DEBIAN_ROOT))
    }

    fn find_below(
        given: Option<&Path>,
        search_path: &OsStr,
        versions_root: &Path,
    ) -> Result<Self, ClusterError> {
        let (candidates, searched) = match given {
            Some(dir) => (
                vec![dir.to_path_buf(), dir.join("bin")],
                dir.display().to_string(),
            ),
            None => (
                candidates(search_path, versions_root),
                format!(
                    "PATH, pg_config --bindir, {}/*/bin",
                    versions_root.display()
                ),
            ),
        };
        let mut newest_too_old: Option<Binaries> = None;
        for dir in candidates {
            let Some(found) = inspect(dir) else { continue };
            if found.major_version >= MAJOR_VERSION_MIN {
                return Ok(found);
            }
            if newest_too_old
                .as_ref()
                .is_none_or(|old| found.major_version > old.major_version)
            {
                newest_too_old = Some(found);
            }
        }
        Err(match newest_too_old {
            Some(old) => ClusterError::TooOld {
                dir: old.dir,
                version: old.major_version,
                needed: MAJOR_VERSION_MIN,
            },
            None => ClusterError::NotFound {
                searched,
                needed: MAJOR_VERSION_MIN,
            },
        })
    }

    /// The directory of the programs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// 15 for PostgreSQL 15.18.
    pub fn major_version(&self) -> u32 {
        self.major_version
    }

    /// The path of one program, for instance `pg_dump`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// Directories to try, best first.
fn candidates(search_path: &OsStr, versions_root: &Path) -> Vec<PathBuf> {
    let in_path: Vec<PathBuf> = std::env::split_paths(search_path)
        .filter(|dir| dir.is_absolute())
        .collect();
    let mut all = in_path.clone();
    for dir in in_path {
        all.extend(bindir_of_pg_config(&dir.join("pg_config")));
    }
    all.extend(versioned_dirs(versions_root));
    all
}

fn bindir_of_pg_config(pg_config: &Path) -> Option<PathBuf> {
    if !pg_config.is_file() {
        return None;
    }
    let output = Command::new(pg_config).arg("--bindir").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output
        .status
        .success()
        .then(|| PathBuf::from(text.trim_end()))
}

fn versioned_dirs(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(root) else {
        return Vec::new();
    };
    let mut versions: Vec<u32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    versions
        .into_iter()
        .map(|version| root.join(version.to_string()).join("bin"))
        .collect()
}

fn inspect(dir: PathBuf) -> Option<Binaries> {
    let postgres = dir.join("postgres");
    if !dir.join("initdb").is_file() || !postgres.is_file() {
        return None;
    }
    let output = Command::new(&postgres).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let major_version = major_version(&text)?;
    Some(Binaries { dir, major_version })
}

/// Reads `postgres (PostgreSQL) 15.18 (Debian ..)`, `.. 19beta1` and `.. 9.6.24`.
fn major_version(text: &str) -> Option<u32> {
    let (_, version) = text.split_once("(PostgreSQL) ")?;
    let digits: &str = version
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .unwrap_or_default();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::*;

    /// A program that is still open for writing cannot be run, and a child that another test starts inherits the open
    /// file for a moment: one test at a time.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    /// A directory of fake programs that goes away with the test.
    struct Fakes(
        PathBuf,
        #[expect(dead_code, reason = "held")] MutexGuard<'static, ()>,
    );

    impl Fakes {
        fn new() -> Self {
            let dir = std::env::temp_dir().join(format!("sheaf-fakes-{}", uuid::Uuid::new_v4()));
            std::fs::create_dir_all(&dir).expect("temp dir");
            let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
            Fakes(dir, turn)
        }

        fn install(&self, below: &str, program: &str, says: &str) -> PathBuf {
            let dir = self.0.join(below);
            std::fs::create_dir_all(&dir).expect("fake dir");
            let file = dir.join(program);
            std::fs::write(&file, format!("#!/bin/sh\necho '{says}'\n")).expect("fake program");
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))
                .expect("fake mode");
            dir
        }

        fn find(&self, search_path: &Path) -> Result<Binaries, ClusterError> {
            Binaries::find_below(None, search_path.as_os_str(), &self.0.join("versions"))
        }
    }

    impl Drop for Fakes {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn version_texts_are_read() {
        for (text, version) in [
            (
                "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n",
                Some(15),
            ),
            ("postgres (PostgreSQL) 19beta1\n", Some(19)),
            ("postgres (PostgreSQL) 9.6.24\n", Some(9)),
            ("postgres: command wrapper\n", None),
        ] {
            assert_eq!(major_version(text), version, "{text}");
        }
    }

    #[test]
    fn a_postgres_without_initdb_is_passed_over() {
        let fakes = Fakes::new();
        let path = fakes.install("path", "postgres", "postgres (PostgreSQL) 17.1");
        fakes.install("versions/16/bin", "postgres", "postgres (PostgreSQL) 16.2");
        let good = fakes.install("versions/16/bin", "initdb", "");
        let found = fakes.find(&path).expect("the complete one is found");
        assert_eq!((found.dir(), found.major_version()), (good.as_path(), 16));
    }

    #[test]
    fn the_newest_versioned_directory_wins_by_number() {
        let fakes = Fakes::new();
        for version in [9, 15, 100] {
            let below = format!("versions/{version}/bin");
            let says = format!("postgres (PostgreSQL) {version}.1");
            fakes.install(&below, "postgres", &says);
            fakes.install(&below, "initdb", "");
        }
        let found = fakes.find(Path::new("/nonexistent")).expect("found");
        assert_eq!(found.major_version(), 100);
    }

    #[test]
    fn an_old_server_and_none_at_all_say_how_to_get_one() {
        let fakes = Fakes::new();
        let path = fakes.install("path", "postgres", "postgres (PostgreSQL) 13.9");
        let none = fakes.find(&path).expect_err("no initdb").to_string();
        fakes.install("path", "initdb", "");
        let old = fakes.find(&path).expect_err("too old").to_string();
        assert!(none.contains("no PostgreSQL server found"), "{none}");
        assert!(old.contains("version 13"), "{old}");
        for text in [none, old] {
            assert!(text.contains("apt-get install postgresql-15"), "{text}");
        }
    }

    #[test]
    fn pg_config_points_to_the_server() {
        let fakes = Fakes::new();
        let real = fakes.install("elsewhere", "postgres", "postgres (PostgreSQL) 15.3");
        fakes.install("elsewhere", "initdb", "");
        let path = fakes.install("path", "pg_config", &real.display().to_string());
        assert_eq!(fakes.find(&path).expect("found").dir(), real);
    }
}
