//! An entity whole, as it is sent: from memory where the read allows it, else from a source, whose answer is remembered.
//!
//! Answers are remembered encoded, and only those that hold everything: they are what is read most, they cost nothing to
//! send again, and they are smaller than the values that they were made of.

use std::time::Duration;

use bytes::Bytes;
use sheaf_cache::{Answer, Demand, EntityName as Name, Fetched, Origin, Reading, Sample};
use sheaf_model::{Lineage, Lsn};
use sheaf_store::TenantScope;

use super::{EntityQuery, Found, found_under};
use crate::answer::{EntityAnswer, Read};
use crate::attempt::Attempt;
use crate::consistency::{DataSource, Freshness, Lag, ReadOptions};
use crate::entity_name::EntityName;
use crate::error::ReadError;
use crate::reader::Reader;

/// An entity with all its values, encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedEntity {
    /// The document's version.
    pub version: i64,
    /// What the encoder made of it.
    pub body: Bytes,
}

/// How answers are encoded. Always in the same way: what was written for one read answers another.
pub type Encode = fn(EntityAnswer) -> Bytes;

type EncodedRead = Read<Option<EncodedEntity>>;

impl Reader {
    /// An entity as it is, with all its values. Nothing for one that never had an event, or is deleted.
    pub async fn entity_encoded(
        &self,
        scope: &TenantScope,
        (entity_type, external_id): (&str, &str),
        options: &ReadOptions,
        encode: Encode,
    ) -> Result<EncodedRead, ReadError> {
        let name = EntityName::canonical(entity_type, external_id);
        let Some((cache, demand)) = self.cache.as_ref().zip(demand(options)) else {
            self.bypass();
            let (found, _) = self.found(scope, &name, options).await?;
            return Ok(encoded(found, encode));
        };
        if let Some(timeline) = self.catalogues.newest_timeline().get() {
            cache.follow(Lineage {
                system_id: self.settings.system_id,
                timeline,
            });
        }
        // Where replicas answer, nobody else may ask the primary for a long time.
        if cache.awaits_primary()
            && let Some((position, asked_at)) = self.sources.primary_written()
        {
            cache.saw_primary(position, asked_at);
        }
        let ask = async {
            // Not part of every read's future: most are answered before.
            let (found, covers) = Box::pin(self.found(scope, &name, options)).await?;
            let entity = found.value.entity;
            let version = found.value.version;
            let read = encoded(found, encode);
            let fetched = Fetched {
                is_primary: read.freshness.source == DataSource::Primary,
                entity,
                version,
                body: read.value.as_ref().map(|encoded| encoded.body.clone()),
                position: read.freshness.position,
                covers,
                lag: match read.freshness.lag {
                    Lag::Measured(lag) => Some(lag),
                    Lag::Unknown => None,
                },
                data_timestamp: read.freshness.data_timestamp,
            };
            Ok::<_, ReadError>((fetched, read))
        };
        let asked_for = Name {
            tenant: scope.tenant(),
            entity_type: &name.entity_type,
            external_id: &name.external_id,
        };
        match cache.read(asked_for, &demand, ask).await? {
            Reading::Asked { answer, position } => {
                let mut read = answer;
                read.freshness.position = position;
                Ok(read)
            }
            Reading::Remembered(answer) => {
                let (read, sample) = remembered(*answer, options);
                if let Some(sample) = sample {
                    self.compare(sample, scope, name, options);
                }
                Ok(read)
            }
        }
    }

    /// Counts a read that memory may not answer.
    pub(super) fn bypass(&self) {
        if let Some(cache) = &self.cache {
            cache.bypassed();
        }
    }

    async fn found(
        &self,
        scope: &TenantScope,
        name: &EntityName,
        options: &ReadOptions,
    ) -> Result<(Read<Found>, Option<Lsn>), ReadError> {
        let all = EntityQuery::default();
        let mut attempt = Attempt::first(self, scope, options).await?;
        loop {
            let source = attempt.source().await?;
            let result = found_under(attempt.catalogue(), &source, scope, name, &all).await;
            let covers = source.covers();
            if let Some(found) = attempt.judge(source, result).await? {
                return Ok((found, covers));
            }
        }
    }

    /// Compares an answer from memory with the primary. The task ends with one read, and there is one at a time.
    fn compare(&self, sample: Sample, scope: &TenantScope, name: EntityName, asked: &ReadOptions) {
        let (reader, scope) = (self.clone(), scope.clone());
        let strong = ReadOptions::new(None, asked.now);
        tokio::spawn(async move {
            let found = reader.found(&scope, &name, &strong).await;
            match found {
                Ok((found, _)) => sample.compare(found.value.version),
                Err(error) => tracing::debug!(%error, "an answer from memory was not compared"),
            }
        });
    }
}

/// What a read asks of a remembered answer; none where it may not have one.
fn demand(options: &ReadOptions) -> Option<Demand> {
    let is_allowed = options.level.may_be_behind(options.token.is_some());
    is_allowed.then(|| Demand {
        lag_max: options.lag_max().unwrap_or(Duration::MAX),
        token: options.token,
    })
}

fn encoded(found: Read<Found>, encode: Encode) -> EncodedRead {
    let Read { value, freshness } = found;
    let version = value.version;
    let body = value.answer.map(encode);
    Read {
        value: body.map(|body| EncodedEntity { version, body }),
        freshness,
    }
}

fn remembered(answer: Answer, options: &ReadOptions) -> (EncodedRead, Option<Sample>) {
    let Answer {
        value,
        origin,
        lag,
        sample,
    } = answer;
    let version = value.version;
    let read = Read {
        value: value.body.map(|body| EncodedEntity { version, body }),
        freshness: Freshness {
            source: match origin {
                Origin::Memory => DataSource::Cache,
                Origin::Redis => DataSource::Redis,
            },
            lag: Lag::Measured(lag),
            data_timestamp: value.data_timestamp,
            level: options.level,
            cache_hit: true,
            position: value.position,
        },
    };
    (read, sample)
}

#[cfg(test)]
mod tests {
    use sheaf_model::{Position, Timestamp};

    use super::*;
    use crate::consistency::ConsistencyLevel;

    #[test]
    fn strong_reads_and_sessions_without_a_token_are_never_answered_from_memory() {
        use ConsistencyLevel::{Analytics, Eventual, Session, Strong};
        let token = Position {
            system_id: 7,
            timeline: 1,
            lsn: Lsn(9),
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for (level, token, max_lag, expected) in [
            (Strong, None, None, None),
            (Strong, Some(token), Some("1h"), None),
            (Session, None, Some("1h"), None),
            (Session, Some(token), None, Some(Duration::MAX)),
            (Session, Some(token), Some("2s"), seconds(2)),
            (Eventual, None, None, seconds(3)),
            (Eventual, Some(token), Some("1m"), seconds(60)),
            (Analytics, None, None, seconds(300)),
        ] {
            let mut options = ReadOptions::new(token, Timestamp::MIN);
            options.level = level;
            options.max_lag = max_lag.map(|text| text.parse().expect("a span"));
            let expected = expected.map(|lag_max| Demand { lag_max, token });
            assert_eq!(demand(&options), expected, "{level:?} {max_lag:?}");
        }
    }
}
