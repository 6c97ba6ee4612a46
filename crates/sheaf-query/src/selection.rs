//! Which attributes a read is about, by name.

use std::collections::HashSet;

use sheaf_model::{AttributeId, Document, Name, Timestamp, Value, is_reserved};
use sheaf_store::catalogue::{Attribute, Catalogue};

use crate::error::ReadError;

/// Names of one list.
const NAMES_MAX: usize = 1_000;

/// The attributes that were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    All,
    These(HashSet<AttributeId>),
}

impl Selection {
    /// Finds names in the catalogue. Reserved names stand for what every answer holds anyway, and are passed over.
    pub(crate) fn resolve(
        parameter: &'static str,
        names: Option<&[String]>,
        catalogue: &Catalogue,
    ) -> Result<Selection, ReadError> {
        let Some(names) = names else {
            return Ok(Selection::All);
        };
        let attributes: Vec<&String> = names.iter().filter(|name| !is_reserved(name)).collect();
        let found = find(parameter, &attributes, catalogue)?;
        let ids = found.iter().map(|attribute| attribute.id);
        Ok(Selection::These(ids.collect()))
    }

    /// Finds names of attributes alone: history has no reserved ones.
    pub(crate) fn resolve_attributes(
        names: Option<&[String]>,
        catalogue: &Catalogue,
    ) -> Result<Selection, ReadError> {
        let Some(names) = names else {
            return Ok(Selection::All);
        };
        let found = find("attribute", &names.iter().collect::<Vec<_>>(), catalogue)?;
        let ids = found.iter().map(|attribute| attribute.id);
        Ok(Selection::These(ids.collect()))
    }

    pub(crate) fn contains(&self, id: AttributeId) -> bool {
        match self {
            Selection::All => true,
            Selection::These(ids) => ids.contains(&id),
        }
    }

    /// The keys of the selected attributes in stored rows; absent for all.
    pub(crate) fn keys(&self) -> Option<Vec<String>> {
        match self {
            Selection::All => None,
            Selection::These(ids) => Some(ids.iter().map(ToString::to_string).collect()),
        }
    }
}

/// The attributes with these names.
pub(crate) fn find<'a>(
    parameter: &'static str,
    names: &[&String],
    catalogue: &'a Catalogue,
) -> Result<Vec<&'a Attribute>, ReadError> {
    if names.len() > NAMES_MAX {
        let detail = format!("at most {NAMES_MAX} names");
        return Err(ReadError::parameter(parameter, detail));
    }
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        let name = Name::parse(name)
            .map_err(|fault| ReadError::parameter(parameter, fault.to_string()))?;
        let attribute =
            catalogue
                .by_name(name.as_str())
                .ok_or_else(|| ReadError::UnknownAttribute {
                    parameter,
                    name: name.as_str().to_owned(),
                })?;
        found.push(attribute.as_ref());
    }
    Ok(found)
}

/// The name of an attribute of the catalogue under which values were read.
pub(crate) fn name_of(id: AttributeId, catalogue: &Catalogue) -> Result<&str, ReadError> {
    catalogue
        .by_id(id)
        .map(|attribute| attribute.name.as_str())
        .ok_or(ReadError::MissingAttribute(id))
}

/// Values in order of name.
pub(crate) type NamedValues = Vec<(String, Value)>;
/// Times in order of name.
pub(crate) type NamedTimes = Vec<(String, Timestamp)>;

/// The selected values of a document, and since when they hold.
pub(crate) fn select_values(
    document: Document,
    selection: &Selection,
    catalogue: &Catalogue,
) -> Result<(NamedValues, NamedTimes), ReadError> {
    let mut found = Vec::new();
    for (id, (cell, time)) in document.cells {
        if let sheaf_model::Cell::Value(value) = cell
            && selection.contains(id)
        {
            found.push((name_of(id, catalogue)?.to_owned(), value, time));
        }
    }
    found.sort_by(|one, two| one.0.cmp(&two.0));
    let times = found
        .iter()
        .map(|(name, _, time)| (name.clone(), *time))
        .collect();
    let values = found
        .into_iter()
        .map(|(name, value, _)| (name, value))
        .collect();
    Ok((values, times))
}
