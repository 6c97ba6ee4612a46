//! The settings of the archive: when history is left to the lake.

use std::time::Duration;

use crate::error::{ConfigError, ValueFault};
use crate::reader::Reader;

/// Sooner, and what is a little late goes the way of what is late for good. It is of whole partitions, which end when they end.
const AFTER_LEAST: &str = "1h";
const AFTER_MOST: &str = "10000d";

/// The archive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Archive {
    /// How long after its end a partition is archived; absent where none is by itself.
    pub after: Option<Duration>,
}

impl Archive {
    pub(crate) fn read(reader: &mut Reader) -> Result<Archive, ConfigError> {
        let span = |text: &str| -> sheaf_model::Duration {
            text.parse().expect("invariant: bounds are spans")
        };
        let after = reader.optional("archive.after", |text| {
            let given: sheaf_model::Duration = text.parse()?;
            if (span(AFTER_LEAST)..=span(AFTER_MOST)).contains(&given) {
                Ok(given)
            } else {
                Err(ValueFault::Span {
                    min: AFTER_LEAST,
                    max: AFTER_MOST,
                })
            }
        })?;
        let after = after.map(|span| u64::try_from(span.as_micros()));
        Ok(Archive {
            after: after.map(|micros| {
                Duration::from_micros(micros.expect("invariant: spans are above zero"))
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Settings;

    #[test]
    fn nothing_is_archived_by_itself_unless_it_is_said_how_long_after() {
        let read = |text: &str| {
            let settings = Settings::load(Some(("sheaf.toml", text)), []);
            settings.map(|(settings, _)| settings.archive.after)
        };
        assert_eq!(read("").expect("defaults"), None);
        for (text, hours) in [("1h", 1), ("90d", 90 * 24), ("10000d", 240_000)] {
            let after = read(&format!("[archive]\nafter = \"{text}\"")).expect(text);
            assert_eq!(after, Some(Duration::from_secs(hours * 3600)), "{text}");
        }
        for text in ["59m", "never", "0d"] {
            assert!(
                read(&format!("[archive]\nafter = \"{text}\"")).is_err(),
                "{text}"
            );
        }
    }
}
