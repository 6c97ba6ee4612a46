//! From a connection to a tenant: encryption, the name, the key.
//!
//! The key travels as it is: only its hash is kept here, and a proof without the key, as SCRAM is one, needs a hash that is made of
//! a password and its own salt. So a key is only asked for where nobody reads along: over an encrypted connection, from this machine, or
//! where whoever runs the server has said that the network is safe.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use sheaf_store::TenantScope;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::PgWire;
use super::fault::{
    FEATURE_NOT_SUPPORTED, Fault, INVALID_PASSWORD, PROTOCOL_VIOLATION, TOO_MANY_CONNECTIONS,
};
use super::line::{Incoming, LOGIN_BYTES_MAX, Line, LineError, Stream};
use super::opening::{Opening, read_opening, read_password};
use super::places::Place;
use super::reply::Standing;
use super::startup::begun;
use super::variables::{REPORTED, Variables};
use crate::auth::admit_named;
use crate::problem::Code;
use crate::serve::TAKEN_WITHIN;

/// Messages before the one that begins a session: whether there is encryption, of two kinds.
const OPENINGS_MAX: usize = 3;
/// What is shown of a name that somebody has sent.
const SHOWN_CHARS_MAX: usize = 64;

/// A connection that is logged in.
pub(super) struct Admitted {
    pub(super) line: Line,
    pub(super) scope: TenantScope,
    /// The tenant's name.
    pub(super) user: String,
    /// As it was sent: it is looked up again and again, as one may be revoked.
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) variables: Variables,
}

/// Why a connection is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It ended, or said nothing for too long.
    Ended,
    /// What came was no login.
    Protocol,
    /// It was in clear.
    Cleartext,
    /// The name and the key do not open anything.
    Password,
    /// There are as many connections as there may be.
    Crowded,
    /// Whether they do could not be found out.
    Unavailable,
}

impl Refusal {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Refusal::Ended => "ended",
            Refusal::Protocol => "protocol",
            Refusal::Cleartext => "cleartext",
            Refusal::Password => "password",
            Refusal::Crowded => "crowded",
            Refusal::Unavailable => "unavailable",
        }
    }
}

impl From<LineError> for Refusal {
    fn from(error: LineError) -> Refusal {
        match error {
            LineError::Length => Refusal::Protocol,
            LineError::Ended | LineError::Idle | LineError::Slow | LineError::Io(_) => {
                Refusal::Ended
            }
        }
    }
}

/// What a client says first of its session.
struct Start {
    line: Line,
    is_encrypted: bool,
    minor: u16,
    parameters: BTreeMap<String, String>,
}

/// Logs a connection in. None is for something else.
pub(super) async fn login(
    pgwire: &PgWire,
    stream: TcpStream,
    peer: SocketAddr,
    until: Instant,
) -> Result<Option<Admitted>, Refusal> {
    let Some(mut start) = open(pgwire, stream, until).await? else {
        return Ok(None);
    };
    let found = admit(pgwire, &mut start, peer, until).await;
    let (scope, user, key, variables) = match found {
        Ok(found) => found,
        Err(Stop::Line(error)) => return Err(error.into()),
        Err(Stop::Fault(fault, refusal)) => return Err(refuse(start.line, fault, refusal).await),
    };
    let Start {
        mut line, minor, ..
    } = start;
    let of_tenant_max = pgwire.bounds.connections_of_tenant_max;
    let has_long_secret = minor >= 2;
    let place = pgwire
        .places
        .take(scope.tenant(), of_tenant_max, has_long_secret);
    let Some(place) = place else {
        let message = "the tenant has as many connections as it may have";
        let fault = Fault::fatal(TOO_MANY_CONNECTIONS, message);
        return Err(refuse(line, fault, Refusal::Crowded).await);
    };
    line.out.admitted();
    for name in REPORTED {
        let value = variables.show(name).unwrap_or_default();
        line.out.parameter(name, value);
    }
    line.out.parameter("session_authorization", &user);
    line.out.key(place.process, &place.secret);
    line.out.ready(Standing::Idle);
    line.send().await?;
    Ok(Some(Admitted {
        line,
        scope,
        user,
        key,
        place,
        variables,
    }))
}

async fn refuse(mut line: Line, fault: Fault, refusal: Refusal) -> Refusal {
    line.out.fault(&fault);
    line.close().await;
    refusal
}

/// Up to the message that begins a session.
async fn open(
    pgwire: &PgWire,
    stream: TcpStream,
    until: Instant,
) -> Result<Option<Start>, Refusal> {
    let mut line = Line::new(Box::new(stream), TAKEN_WITHIN);
    let mut is_encrypted = false;
    for _ in 0..OPENINGS_MAX {
        let body = line.opening(until).await?;
        match read_opening(&body) {
            Ok(Opening::Tls) if is_encrypted => return Err(Refusal::Protocol),
            Ok(Opening::Tls) => {
                let Some(tls) = &pgwire.tls else {
                    line.out.encryption(false);
                    line.send().await?;
                    continue;
                };
                line.out.encryption(true);
                line.send().await?;
                // What came in clear behind it is of somebody who wants to be taken for the client.
                let stream = line.into_stream().ok_or(Refusal::Protocol)?;
                let shaken = timeout_at(until, tls.accept(stream)).await;
                let stream = shaken.map_err(|_| Refusal::Ended)?;
                let stream = stream.map_err(|_| Refusal::Protocol)?;
                line = Line::new(Box::new(stream) as Box<dyn Stream>, TAKEN_WITHIN);
                is_encrypted = true;
            }
            Ok(Opening::Gss) => {
                line.out.encryption(false);
                line.send().await?;
            }
            Ok(Opening::Cancel { process, secret }) => {
                pgwire.places.cancel(process, &secret);
                // Encrypted clients want to see the end of it.
                line.close().await;
                return Ok(None);
            }
            Ok(Opening::Startup { minor, parameters }) => {
                return Ok(Some(Start {
                    line,
                    is_encrypted,
                    minor,
                    parameters,
                }));
            }
            Err(fault) => {
                let fault = Fault::fatal(PROTOCOL_VIOLATION, fault.to_string());
                return Err(refuse(line, fault, Refusal::Protocol).await);
            }
        }
    }
    Err(Refusal::Protocol)
}

enum Stop {
    Line(LineError),
    Fault(Fault, Refusal),
}

impl From<LineError> for Stop {
    fn from(error: LineError) -> Stop {
        Stop::Line(error)
    }
}

/// Whom the name and the key of a session open.
async fn admit(
    pgwire: &PgWire,
    start: &mut Start,
    peer: SocketAddr,
    until: Instant,
) -> Result<(TenantScope, String, String, Variables), Stop> {
    let fatal =
        |sqlstate, message: String, refusal| Stop::Fault(Fault::fatal(sqlstate, message), refusal);
    let parameters = &start.parameters;
    let is_wanted = |value: &String| !["false", "off", "no", "0"].contains(&value.as_str());
    if parameters.get("replication").is_some_and(is_wanted) {
        let message = "there is no replication by this protocol".to_owned();
        return Err(fatal(FEATURE_NOT_SUPPORTED, message, Refusal::Protocol));
    }
    if !may_send_key(start.is_encrypted, peer.ip(), pgwire.bounds.takes_cleartext) {
        let message = match pgwire.tls {
            Some(_) => "a key is only taken over an encrypted connection: sslmode=require",
            None => {
                "a key is only taken over an encrypted connection, and the server has no certificate"
            }
        };
        return Err(fatal("28000", message.to_owned(), Refusal::Cleartext));
    }
    let options = parameters.keys().filter(|name| name.starts_with("_pq_."));
    let options: Vec<&str> = options.map(String::as_str).collect();
    let minor = match start.minor {
        0 | 1 => 0,
        _ => 2,
    };
    if minor != start.minor || !options.is_empty() {
        start.line.out.version(minor, &options);
    }
    let variables =
        begun(parameters).map_err(|fault| Stop::Fault(fault.and_ends(), Refusal::Protocol))?;
    let user = parameters.get("user").cloned().unwrap_or_default();
    start.minor = minor;
    let line = &mut start.line;
    line.out.password_wanted();
    line.send().await?;
    let violated = |message: String| fatal(PROTOCOL_VIOLATION, message, Refusal::Protocol);
    let key = match line.whole(LOGIN_BYTES_MAX, until).await? {
        Incoming::Message(kind, body) => read_password(kind, &body),
        Incoming::TooLong(_) => return Err(violated("a key is shorter".to_owned())),
    };
    let key = key.map_err(|fault| violated(fault.to_string()))?;
    match admit_named(&pgwire.shared, &user, &key, Some(peer.ip())).await {
        Ok(scope) => Ok((scope, user, key, variables)),
        Err(problem) if problem.code == Code::Unauthorized => {
            let shown: String = user.chars().take(SHOWN_CHARS_MAX).collect();
            let message = format!("password authentication failed for user {shown:?}");
            Err(fatal(INVALID_PASSWORD, message, Refusal::Password))
        }
        Err(problem) => {
            let refusal = match problem.code.status() {
                403 | 429 => Refusal::Password,
                _ => Refusal::Unavailable,
            };
            Err(Stop::Fault(Fault::from(problem).and_ends(), refusal))
        }
    }
}

/// Whether nobody reads along, or somebody has said that nobody does.
fn may_send_key(is_encrypted: bool, peer: IpAddr, takes_cleartext: bool) -> bool {
    is_encrypted || takes_cleartext || peer.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_clear_is_taken_from_this_machine_or_where_that_was_said() {
        for (is_encrypted, peer, takes_cleartext, may) in [
            (false, "127.0.0.1", false, true),
            (false, "::1", false, true),
            (false, "::ffff:127.0.0.1", false, true),
            (false, "10.0.0.1", false, false),
            (false, "::ffff:10.0.0.1", false, false),
            (false, "fe80::1", false, false),
            (true, "10.0.0.1", false, true),
            (false, "10.0.0.1", true, true),
        ] {
            let address = peer.parse().expect("an address");
            let found = may_send_key(is_encrypted, address, takes_cleartext);
            assert_eq!(found, may, "{peer} {is_encrypted} {takes_cleartext}");
        }
    }
}
