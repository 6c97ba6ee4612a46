//! Takes each setting from the environment, else from the file, else its default, and remembers which.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::{ConfigError, Place, ValueFault};
use crate::raw::{Raw, replica_key, tenant_key};

/// What every variable of ours begins with.
const PREFIX: &str = "SHEAF_";

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provenance {
    /// Nobody said anything.
    Default,
    /// Somebody did, here.
    Set(Place),
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Provenance::Default => f.write_str("default"),
            Provenance::Set(place) => place.fmt(f),
        }
    }
}

/// One setting as a person may see it: a secret is not shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Section and key, `database.url`.
    pub key: String,
    /// The value in effect; absent where there is none.
    pub value: Option<String>,
    /// Where it came from.
    pub provenance: Provenance,
}

/// A value that was set, as text, and where.
pub(crate) struct Given {
    pub(crate) text: String,
    pub(crate) place: Place,
}

/// The sources of one start.
pub(crate) struct Reader {
    file: Raw,
    variables: BTreeMap<String, String>,
    pub(crate) shown: Vec<Shown>,
}

impl Reader {
    pub(crate) fn new(
        file: Option<(&str, &str)>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Reader, ConfigError> {
        let file = match file {
            Some((name, text)) => Raw::read(name, text)?,
            None => Raw::default(),
        };
        let variables = variables
            .into_iter()
            .filter(|(name, _)| name.starts_with(PREFIX))
            .collect();
        Ok(Reader {
            file,
            variables,
            shown: Vec::new(),
        })
    }

    /// Reads a setting that has a default.
    pub(crate) fn value<T: fmt::Display>(
        &mut self,
        key: &str,
        default: T,
        parse: impl Fn(&str) -> Result<T, ValueFault>,
    ) -> Result<T, ConfigError> {
        let given = self.given(key);
        let value = parsed(key, given.as_ref(), parse)?.unwrap_or(default);
        self.show(key, Some(value.to_string()), given.as_ref());
        Ok(value)
    }

    /// Reads a setting that may be absent.
    pub(crate) fn optional<T: fmt::Display>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, ValueFault>,
    ) -> Result<Option<T>, ConfigError> {
        let given = self.given(key);
        let value = parsed(key, given.as_ref(), parse)?;
        self.show(key, value.as_ref().map(T::to_string), given.as_ref());
        Ok(value)
    }

    /// The tenants that the file has a section of.
    pub(crate) fn tenants(&self) -> Vec<String> {
        self.file.tenants.iter().cloned().collect()
    }

    /// Reads a tenant's own setting, which only the file can hold: a name need not fit a variable's.
    pub(crate) fn of_tenant<T: fmt::Display>(
        &mut self,
        tenant: &str,
        key: &str,
        parse: impl Fn(&str) -> Result<T, ValueFault>,
    ) -> Result<Option<T>, ConfigError> {
        let key = tenant_key(tenant, key);
        let given = self.file.take(&key);
        let value = parsed(&key, given.as_ref(), parse)?;
        if value.is_some() {
            self.show(&key, value.as_ref().map(T::to_string), given.as_ref());
        }
        Ok(value)
    }

    /// The replicas that the file has a section of, and where.
    pub(crate) fn replicas(&self) -> Vec<(String, Place)> {
        let replicas = self.file.replicas.iter();
        replicas
            .map(|(name, place)| (name.clone(), place.clone()))
            .collect()
    }

    /// Reads a replica's setting, which only the file can hold.
    pub(crate) fn of_replica<T: fmt::Display>(
        &mut self,
        replica: &str,
        key: &str,
        parse: impl Fn(&str) -> Result<T, ValueFault>,
    ) -> Result<Option<T>, ConfigError> {
        let key = replica_key(replica, key);
        let given = self.file.take(&key);
        let value = parsed(&key, given.as_ref(), parse)?;
        if value.is_some() {
            self.show(&key, value.as_ref().map(T::to_string), given.as_ref());
        }
        Ok(value)
    }

    /// The sinks that are a URL and have a section in the file, and where. The environment may set what is in such a section.
    pub(crate) fn http_sinks(&self) -> Vec<(String, Place)> {
        let sinks = self.file.http_sinks.iter();
        sinks
            .map(|(name, place)| (name.clone(), place.clone()))
            .collect()
    }

    /// What was set for a key, the environment before the file.
    pub(crate) fn given(&mut self, key: &str) -> Option<Given> {
        let name = variable(key);
        let in_file = self.file.take(key);
        match self.variables.remove(&name) {
            Some(text) => Some(Given {
                text,
                place: Place::Variable(name),
            }),
            None => in_file,
        }
    }

    pub(crate) fn show(&mut self, key: &str, value: Option<String>, given: Option<&Given>) {
        let provenance = match given {
            Some(given) => Provenance::Set(given.place.clone()),
            None => Provenance::Default,
        };
        self.shown.push(Shown {
            key: key.to_owned(),
            value,
            provenance,
        });
    }

    /// Every variable must have been asked for by now.
    pub(crate) fn finish(self) -> Result<Vec<Shown>, ConfigError> {
        match self.variables.into_keys().next() {
            Some(name) => Err(ConfigError::UnknownVariable { name }),
            None => Ok(self.shown),
        }
    }
}

fn parsed<T>(
    key: &str,
    given: Option<&Given>,
    parse: impl Fn(&str) -> Result<T, ValueFault>,
) -> Result<Option<T>, ConfigError> {
    let Some(given) = given else {
        return Ok(None);
    };
    match parse(&given.text) {
        Ok(value) => Ok(Some(value)),
        Err(fault) => Err(ConfigError::Value {
            place: given.place.clone(),
            key: key.to_owned(),
            fault,
        }),
    }
}

/// `database.url` is `SHEAF_DATABASE_URL`.
fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_ascii_uppercase())
}
