//! Settings that come with a login. Pure.

use std::collections::BTreeMap;

use super::fault::Fault;
use super::variables::Variables;

/// The settings that a client sends with its name.
pub(super) fn begun(parameters: &BTreeMap<String, String>) -> Result<Variables, Fault> {
    let mut variables = Variables::default();
    for (name, value) in parameters {
        match name.as_str() {
            // Whatever database is named: there is one.
            "user" | "database" | "replication" => {}
            name if name.starts_with("_pq_.") => {}
            "options" => {
                for (name, value) in options(value) {
                    variables.begin(&name, &value)?;
                }
            }
            name => variables.begin(name, value)?,
        }
    }
    Ok(variables)
}

/// `-c name=value`, `-cname=value` and `--name=value`, with backslashes before spaces.
fn options(text: &str) -> Vec<(String, String)> {
    let mut words = vec![String::new()];
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        let word = words.last_mut().expect("invariant: there is one");
        match letter {
            '\\' => word.extend(letters.next()),
            letter if letter.is_whitespace() => words.push(String::new()),
            letter => word.push(letter),
        }
    }
    let settings = words.iter().filter_map(|word| {
        let word = word.strip_prefix("--").or_else(|| word.strip_prefix("-c"));
        let word = word.map_or("", str::trim);
        word.split_once('=')
    });
    let mut settings: Vec<(String, String)> = settings
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    // `-c` alone: what it sets is the next word.
    for pair in words.windows(2) {
        if let [flag, setting] = pair
            && flag == "-c"
            && let Some((name, value)) = setting.split_once('=')
        {
            settings.push((name.to_owned(), value.to_owned()));
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_with_the_name_and_unknown_ones_are_refused() {
        let parameters = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            let pairs = pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            pairs.collect::<BTreeMap<String, String>>()
        };
        let found = begun(&parameters(&[
            ("user", "acme"),
            ("database", "whatever"),
            ("application_name", "psql"),
            ("_pq_.future", "1"),
            (
                "options",
                r"-c statement_timeout=2s -csheaf.max_lag=30s --search_path=a\ b",
            ),
        ]));
        let found = found.expect("known settings");
        for (name, value) in [
            ("application_name", "psql"),
            ("statement_timeout", "2s"),
            ("sheaf.max_lag", "30s"),
            ("search_path", "a b"),
        ] {
            assert_eq!(found.show(name).ok(), Some(value), "{name}");
        }
        // As pgjdbc and the drivers for Go send them.
        for pairs in [
            &[
                ("user", "acme"),
                ("database", "sheaf"),
                ("client_encoding", "UTF8"),
                ("DateStyle", "ISO"),
                ("TimeZone", "Europe/Berlin"),
                ("extra_float_digits", "2"),
            ][..],
            &[
                ("client_encoding", "UTF8"),
                ("datestyle", "ISO, MDY"),
                ("extra_float_digits", "2"),
            ],
        ] {
            assert!(begun(&parameters(pairs)).is_ok(), "{pairs:?}");
        }
        for pairs in [
            [("options", "-c sheaf.tenant_id=2")],
            [("sheaf.tenant_id", "2")],
            [("client_encoding", "SJIS")],
        ] {
            assert!(begun(&parameters(&pairs)).is_err(), "{pairs:?}");
        }
    }
}
