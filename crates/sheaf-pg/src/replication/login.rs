//! From a socket to a session: encryption and login, as the ordinary client library does both.

use std::io;

use bytes::BytesMut;
use postgres_protocol::authentication;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};

use super::frame::{Frame, ServerError, name};
use super::{ReplicationConnection, ReplicationError, Socket};
use crate::pool::Tls;

const STEP: &str = "logging in for replication";

/// Encrypts a connection where the configuration demands it or the server offers it.
pub(super) async fn encrypt(
    mut socket: TcpStream,
    mode: SslMode,
    tls: &Tls,
    host: &str,
) -> Result<Box<dyn Socket>, ReplicationError> {
    if mode == SslMode::Disable {
        return Ok(Box::new(socket));
    }
    let mut out = BytesMut::new();
    frontend::ssl_request(&mut out);
    let mut answer = [0];
    let asked = async {
        socket.write_all(&out).await?;
        socket.read_exact(&mut answer).await
    };
    asked.await.map_err(ReplicationError::Connect)?;
    if answer != *b"S" {
        if mode == SslMode::Prefer {
            return Ok(Box::new(socket));
        }
        let refused = io::Error::other("the server does not encrypt");
        return Err(ReplicationError::Connect(refused));
    }
    let mut connector = tls.connector();
    let connect = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut connector, host);
    let connect = connect.map_err(|error| ReplicationError::Connect(io::Error::other(error)))?;
    let encrypted = connect.connect(socket).await;
    Ok(Box::new(encrypted.map_err(ReplicationError::Connect)?))
}

/// Opens the session and proves who we are.
pub(super) async fn log_in(
    connection: &mut ReplicationConnection,
    config: &Config,
) -> Result<(), ReplicationError> {
    let user = config.get_user().unwrap_or_default();
    let mut parameters = vec![
        ("client_encoding", "UTF8"),
        ("user", user),
        // A logical slot belongs to a database, and so does the session.
        ("replication", "database"),
    ];
    parameters.extend(config.get_dbname().map(|dbname| ("database", dbname)));
    parameters.extend(config.get_options().map(|options| ("options", options)));
    let application_name = config.get_application_name();
    parameters.extend(application_name.map(|name| ("application_name", name)));
    let mut out = BytesMut::new();
    frontend::startup_message(parameters, &mut out).map_err(ReplicationError::Connect)?;
    connection.send(&out).await?;
    loop {
        let Frame { tag, body } = connection.frame().await?;
        match tag {
            b'R' => answer(connection, config, &body).await?,
            b'Z' => return Ok(()),
            b'E' => return Err(ServerError::refusal(STEP, &body)),
            b'N' | b'S' | b'K' => {}
            other => return Err(ReplicationError::protocol(STEP, name(other))),
        }
    }
}

/// Answers one demand for proof.
async fn answer(
    connection: &mut ReplicationConnection,
    config: &Config,
    demand: &[u8],
) -> Result<(), ReplicationError> {
    let (kind, rest) = read_demand(demand)?;
    let password = || {
        let missing = || io::Error::other("the server wants a password and none is configured");
        config
            .get_password()
            .ok_or_else(|| ReplicationError::Connect(missing()))
    };
    let mut out = BytesMut::new();
    let written = match kind {
        0 => return Ok(()),
        3 => frontend::password_message(password()?, &mut out),
        5 => {
            let salt = rest.try_into().map_err(|_| {
                ReplicationError::protocol(STEP, "a salt of another length than four bytes")
            })?;
            let user = config.get_user().unwrap_or_default();
            let hash = authentication::md5_hash(user.as_bytes(), password()?, salt);
            frontend::password_message(hash.as_bytes(), &mut out)
        }
        10 => return scram(connection, password()?, rest).await,
        other => {
            let what = format!("a demand for authentication of kind {other}");
            return Err(ReplicationError::protocol(STEP, what));
        }
    };
    written.map_err(ReplicationError::Connect)?;
    connection.send(&out).await
}

/// Proves to know the password, and has the server prove it too.
async fn scram(
    connection: &mut ReplicationConnection,
    password: &[u8],
    mechanisms: &[u8],
) -> Result<(), ReplicationError> {
    let mut offered = mechanisms.split(|byte| *byte == 0);
    if !offered.any(|offered| offered == SCRAM_SHA_256.as_bytes()) {
        return Err(ReplicationError::protocol(
            STEP,
            "no mechanism that is known",
        ));
    }
    let mut proof = ScramSha256::new(password, ChannelBinding::unsupported());
    let mut out = BytesMut::new();
    frontend::sasl_initial_response(SCRAM_SHA_256, proof.message(), &mut out)
        .map_err(ReplicationError::Connect)?;
    connection.send(&out).await?;
    let challenge = demanded(connection, 11).await?;
    proof
        .update(&challenge)
        .map_err(ReplicationError::Connect)?;
    let mut out = BytesMut::new();
    frontend::sasl_response(proof.message(), &mut out).map_err(ReplicationError::Connect)?;
    connection.send(&out).await?;
    let verdict = demanded(connection, 12).await?;
    proof.finish(&verdict).map_err(ReplicationError::Connect)
}

/// The next demand, which has to be of this kind.
async fn demanded(
    connection: &mut ReplicationConnection,
    wanted: u32,
) -> Result<Vec<u8>, ReplicationError> {
    let Frame { tag, body } = connection.frame().await?;
    match tag {
        b'R' => match read_demand(&body)? {
            (kind, rest) if kind == wanted => Ok(rest.to_vec()),
            (kind, _) => {
                let what = format!("a demand for authentication of kind {kind}");
                Err(ReplicationError::protocol(STEP, what))
            }
        },
        b'E' => Err(ServerError::refusal(STEP, &body)),
        other => Err(ReplicationError::protocol(STEP, name(other))),
    }
}

fn read_demand(demand: &[u8]) -> Result<(u32, &[u8]), ReplicationError> {
    let Some((kind, rest)) = demand.split_first_chunk::<4>() else {
        let what = "a demand for authentication that is cut short";
        return Err(ReplicationError::protocol(STEP, what));
    };
    Ok((u32::from_be_bytes(*kind), rest))
}
