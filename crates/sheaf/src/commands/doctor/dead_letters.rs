//! Whether a sink of the change stream lacks changes that it could not take.

use anyhow::Result;
use sheaf_store::dead_letters::{OpenLetters, count_open_letters};

use super::{Check, Finding};
use crate::connect::Access;

pub(super) async fn check(access: &Access) -> Result<Check> {
    let open = count_open_letters(&access.upkeep().await?).await;
    Ok(Check {
        name: "dead letters".into(),
        outcome: open.map(|open| finding(&open)).map_err(Into::into),
    })
}

fn finding(open: &[OpenLetters]) -> Finding {
    if open.is_empty() {
        return Finding::Ok("no sink lacks a change that it could not take".to_owned());
    }
    let each = open.iter().map(|letters| {
        let OpenLetters {
            sink,
            reason,
            waiting,
        } = letters;
        format!("sink {sink} lacks {waiting} changes for {reason}")
    });
    let each: Vec<String> = each.collect();
    let each = each.join(", ");
    Finding::Warn(format!(
        "{each}: see GET /v1/dead-letters, and replay or discard them"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_that_wait_are_a_warning() {
        assert!(matches!(finding(&[]), Finding::Ok(_)));
        let open = OpenLetters {
            sink: "lake".to_owned(),
            reason: "unknown_attribute".to_owned(),
            waiting: 2,
        };
        let expected = "sink lake lacks 2 changes for unknown_attribute: ";
        let found = finding(&[open]);
        let is_told = matches!(&found, Finding::Warn(text) if text.starts_with(expected));
        assert!(is_told, "{found:?}");
    }
}
