//! The settings of the cache: how much is remembered, for how long, and where Redis is.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{ConfigError, ValueFault};
use crate::reader::Reader;
use crate::settings::{between, count, filled, read_span};

/// Some 90,000 entities of ten attributes: what a server of a few hundred megabytes has to spare. Less asks PostgreSQL more
/// often; more takes the memory of bodies that are being stored.
const BYTES_MAX: i64 = 64 << 20;
const BYTES_MOST: i64 = 1 << 40;
/// What an eventual read allows. Longer answers those that allow more; shorter asks PostgreSQL more often.
const AGE_MAX: &str = "3s";
const AGE_LEAST: &str = "10ms";
const AGE_MOST: &str = "5m";
/// Some forty times what a Redis nearby takes, and less than a read from PostgreSQL may take. Longer makes every read wait
/// for a slow Redis; shorter goes without a healthy one at a moment's delay.
const DEADLINE: &str = "20ms";
const DEADLINE_LEAST: &str = "1ms";
const DEADLINE_MOST: &str = "1s";

/// The cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cache {
    /// Bytes of answers in this process; 0 for no cache.
    pub bytes_max: usize,
    /// How old any of them may be.
    pub age_max: Duration,
}

/// The Redis that servers share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    /// `redis://host:port/database`, or `rediss://` where it is encrypted.
    pub url: String,
    /// Who to log in as; absent for the default user.
    pub user: Option<String>,
    /// A file with the password; absent where it asks for none. The caller reads it.
    pub password_file: Option<PathBuf>,
    /// The certificates to trust in place of the public ones.
    pub ca_file: Option<PathBuf>,
    /// How long a read waits for it.
    pub deadline: Duration,
}

impl Cache {
    pub(crate) fn read(reader: &mut Reader) -> Result<Cache, ConfigError> {
        Ok(Cache {
            bytes_max: reader.value("cache.bytes_max", count(BYTES_MAX), |text| {
                between(text, 0, BYTES_MOST)
            })?,
            age_max: read_span(reader, "cache.age_max", AGE_MAX, (AGE_LEAST, AGE_MOST))?,
        })
    }
}

impl Redis {
    /// Absent where there is no address.
    pub(crate) fn read(reader: &mut Reader) -> Result<Option<Redis>, ConfigError> {
        let url = reader.optional("redis.url", redis_url)?;
        let user = reader.optional("redis.user", filled)?;
        let password_file = reader.optional("redis.password_file", filled)?;
        let ca_file = reader.optional("redis.ca_file", filled)?;
        let deadline = read_span(
            reader,
            "redis.deadline",
            DEADLINE,
            (DEADLINE_LEAST, DEADLINE_MOST),
        )?;
        Ok(url.map(|url| Redis {
            url,
            user,
            password_file: password_file.map(PathBuf::from),
            ca_file: ca_file.map(PathBuf::from),
            deadline,
        }))
    }
}

/// What is wrong with the address of a Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RedisUrlFault {
    /// Another scheme or none.
    #[error("it does not begin with redis:// or rediss://")]
    Scheme,
    /// It names a user, perhaps with a password.
    #[error("it holds a user or a password; they go to redis.user and redis.password_file")]
    UserInfo,
    /// It has parameters.
    #[error("it has parameters after a question mark")]
    Parameters,
    /// No host.
    #[error("the host is missing")]
    Host,
}

fn redis_url(text: &str) -> Result<String, ValueFault> {
    let rest = text
        .strip_prefix("redis://")
        .or_else(|| text.strip_prefix("rediss://"))
        .ok_or(RedisUrlFault::Scheme)?;
    if rest.contains('@') {
        return Err(RedisUrlFault::UserInfo.into());
    }
    if rest.contains(['?', '#']) {
        return Err(RedisUrlFault::Parameters.into());
    }
    if rest.is_empty() || rest.starts_with(['/', ':']) {
        return Err(RedisUrlFault::Host.into());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_redis_is_a_host_and_no_secret() {
        for text in ["redis://h", "rediss://h:6380/1", "redis://[::1]:6379"] {
            assert_eq!(redis_url(text).expect(text), text);
        }
        for (text, fault) in [
            ("http://h", RedisUrlFault::Scheme),
            ("h:6379", RedisUrlFault::Scheme),
            ("redis://:p@h", RedisUrlFault::UserInfo),
            ("redis://h?db=1", RedisUrlFault::Parameters),
            ("redis:///1", RedisUrlFault::Host),
            ("redis://:6379", RedisUrlFault::Host),
        ] {
            let found = redis_url(text).expect_err(text).to_string();
            assert_eq!(found, fault.to_string(), "{text}");
        }
    }
}
