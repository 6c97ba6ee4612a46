//! Files that hold a secret: readable by their owner alone, and never half there.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use sheaf_config::Password;

/// Passwords and keys are one line, and headers a few; a file of more is something else, given by mistake.
const BYTES_MAX: u64 = 4096;

/// Reads a file, without its last line end.
pub(crate) fn read(path: &Path) -> Result<String> {
    use std::io::Read;
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(BYTES_MAX).read_to_string(&mut text))
        .with_context(|| format!("reading {}", path.display()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// A secret of the settings, from its file if it is in one.
pub(crate) fn reveal(secret: &Password) -> Result<String> {
    match secret {
        Password::Text(text) => Ok(text.reveal().to_owned()),
        Password::File(path) => read(path),
    }
}

/// Writes a file of one line, replacing one that is there.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    let written = (|| {
        if new.exists() {
            std::fs::remove_file(&new)?;
        }
        let mut options = OpenOptions::new();
        let mut file = options
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&new)?;
        writeln!(file, "{text}")?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    })();
    written.with_context(|| format!("writing {}", path.display()))
}
