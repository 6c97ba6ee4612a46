//! The file as it is written: which sections and keys there are, and of which kind. Nothing else is judged here.
//!
//! The table is walked by hand, because the errors of a derived reader quote the value and do not name the key.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use crate::error::{ConfigError, Place, ValueFault};
use crate::reader::Given;

/// What a key holds.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    Number,
}

const SECTIONS: [&str; 3] = ["server", "database", "log"];

const KEYS: [(&str, Kind); 18] = [
    ("server.listen", Kind::Text),
    ("server.admin_listen", Kind::Text),
    ("server.body_bytes_max", Kind::Number),
    ("database.url", Kind::Text),
    ("database.ca_file", Kind::Text),
    ("database.app_password", Kind::Text),
    ("database.app_password_file", Kind::Text),
    ("database.search_password", Kind::Text),
    ("database.search_password_file", Kind::Text),
    ("database.writer_password", Kind::Text),
    ("database.writer_password_file", Kind::Text),
    ("database.upkeep_password", Kind::Text),
    ("database.upkeep_password_file", Kind::Text),
    ("database.app_connections", Kind::Number),
    ("database.search_connections", Kind::Number),
    ("database.writer_connections", Kind::Number),
    ("log.level", Kind::Text),
    ("log.format", Kind::Text),
];

/// The values of a file by section and key.
#[derive(Default)]
pub(crate) struct Raw(BTreeMap<String, Given>);

impl Raw {
    pub(crate) fn read(file: &str, text: &str) -> Result<Raw, ConfigError> {
        let place = |offset| Place::in_file(file, text, offset);
        let table = DeTable::parse(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            ConfigError::Syntax {
                place: place(offset),
                key: nearest_key(text, offset),
                message: error.message().to_owned(),
            }
        })?;
        let mut values = BTreeMap::new();
        for (section, content) in table.into_inner() {
            let section_place = place(section.span().start);
            let section = section.into_inner();
            if !SECTIONS.contains(&section.as_ref()) {
                return Err(ConfigError::UnknownKey {
                    place: section_place,
                    key: section.into_owned(),
                });
            }
            let DeValue::Table(content) = content.into_inner() else {
                return Err(ConfigError::Value {
                    place: section_place,
                    key: section.into_owned(),
                    fault: ValueFault::Kind("a section"),
                });
            };
            for (name, value) in content {
                let key = format!("{section}.{}", name.get_ref());
                let Some((_, kind)) = KEYS.iter().find(|(known, _)| *known == key) else {
                    let place = place(name.span().start);
                    return Err(ConfigError::UnknownKey { place, key });
                };
                let place = place(value.span().start);
                match text_of(*kind, value.into_inner()) {
                    Ok(text) => values.insert(key, Given { text, place }),
                    Err(fault) => return Err(ConfigError::Value { place, key, fault }),
                };
            }
        }
        Ok(Raw(values))
    }

    pub(crate) fn take(&mut self, key: &str) -> Option<Given> {
        self.0.remove(key)
    }
}

fn text_of(kind: Kind, value: DeValue<'_>) -> Result<String, ValueFault> {
    match (kind, value) {
        (Kind::Text, DeValue::String(text)) => Ok(text.into_owned()),
        (Kind::Number, DeValue::Integer(number)) => {
            i64::from_str_radix(number.as_str(), number.radix())
                .map(|number| number.to_string())
                .map_err(ValueFault::Number)
        }
        (Kind::Text, _) => Err(ValueFault::Kind("a text in quotes")),
        (Kind::Number, _) => Err(ValueFault::Kind("a whole number without quotes")),
    }
}

/// The key, else the section, that a fault of syntax belongs to: the nearest one that begins a line at or above it.
/// Only names that exist count, so that no part of a value is ever taken for one.
fn nearest_key(text: &str, offset: usize) -> Option<String> {
    let line_end = text.get(offset..)?.find('\n').map(|length| offset + length);
    let mut nearest = None;
    for line in text[..line_end.unwrap_or(text.len())].lines().rev() {
        let line = line.trim_start();
        if let Some(header) = line.strip_prefix('[') {
            let section = header.trim_start_matches('[').split(']').next()?.trim();
            return nearest
                .map(|name| format!("{section}.{name}"))
                .filter(|key| is_key(key))
                .or_else(|| SECTIONS.contains(&section).then(|| section.to_owned()));
        }
        let name = line.split('=').next()?.trim().trim_matches(['"', '\'']);
        let ends_a_key = |(key, _): &(&str, _)| key.split('.').next_back() == Some(name);
        if nearest.is_none() && (is_key(name) || KEYS.iter().any(ends_a_key)) {
            nearest = Some(name);
        }
    }
    nearest.filter(|name| is_key(name)).map(str::to_owned)
}

fn is_key(name: &str) -> bool {
    KEYS.iter().any(|(known, _)| *known == name)
}
