//! The PostgreSQL settings of a private cluster: enough for a developer's small machine, and what the change stream
//! needs.

use std::fmt::Write as _;

use super::Durability;
use super::error::ClusterError;

/// In force unless the caller sets something else.
const DEFAULTS: [(&str, &str); 12] = [
    // Holds the working set of a year of one busy tenant; a laptop does not miss it.
    ("shared_buffers", "512MB"),
    // A batch of events writes some ten megabytes; with the usual sixteenth of this, writers write the log themselves.
    ("wal_buffers", "64MB"),
    // Log files are used again instead of being made anew, which costs writers a zeroing of each.
    ("min_wal_size", "1GB"),
    // Logical decoding from the first day: changing it later needs a restart.
    ("wal_level", "logical"),
    ("max_connections", "100"),
    // Full pages after each checkpoint are most of the WAL of small writes; fewer checkpoints, less WAL. The price is
    // a recovery of up to this much WAL after a crash.
    ("max_wal_size", "2GB"),
    ("checkpoint_timeout", "15min"),
    // Parameters are tenant data and do not belong in a log.
    ("log_parameter_max_length_on_error", "0"),
    ("TimeZone", "UTC"),
    ("log_timezone", "UTC"),
    ("unix_socket_permissions", "0700"),
    ("listen_addresses", "127.0.0.1"),
];

const LZ4: [(&str, &str); 2] = [
    ("default_toast_compression", "lz4"),
    ("wal_compression", "lz4"),
];

/// Survives the death of any process, not of the machine.
const TEST: [(&str, &str); 2] = [("fsync", "off"), ("full_page_writes", "off")];

/// The text of `sheaf.conf`. The last mention of a setting wins, so `extra` comes last.
pub(super) fn render(
    durability: Durability,
    lz4: bool,
    extra: &[(String, String)],
) -> Result<String, ClusterError> {
    let mut text =
        "# Written by sheaf at every start; use ALTER SYSTEM for settings of your own.\n"
            .to_owned();
    let mut all: Vec<(&str, &str)> = DEFAULTS.to_vec();
    if lz4 {
        all.extend(LZ4);
    }
    if durability == Durability::Test {
        all.extend(TEST);
    }
    all.extend(
        extra
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
    );
    for (name, value) in all {
        let _ = writeln!(text, "{}", line(name, value)?);
    }
    Ok(text)
}

fn line(name: &str, value: &str) -> Result<String, ClusterError> {
    let name_is_plain = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.');
    if !name_is_plain || value.chars().any(char::is_control) {
        return Err(ClusterError::Setting {
            name: name.to_owned(),
        });
    }
    let value = value.replace('\\', "\\\\").replace('\'', "''");
    Ok(format!("{name} = '{value}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_settings_come_last_and_are_quoted() {
        let extra = [("search_path".to_owned(), "a'b\\c".to_owned())];
        let text = render(Durability::Full, true, &extra).expect("plain");
        assert!(text.ends_with("search_path = 'a''b\\\\c'\n"), "{text}");
        assert!(text.contains("wal_compression = 'lz4'"), "{text}");
        assert!(!text.contains("fsync"), "{text}");
    }

    #[test]
    fn a_setting_cannot_smuggle_in_another_line() {
        for (name, value) in [("a", "b\nfsync = off"), ("a = b\nfsync", "off"), ("", "x")] {
            let extra = [(name.to_owned(), value.to_owned())];
            let outcome = render(Durability::Full, false, &extra);
            assert!(
                matches!(outcome, Err(ClusterError::Setting { .. })),
                "{name:?} {value:?}"
            );
        }
    }
}
