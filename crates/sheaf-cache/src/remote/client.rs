//! How Redis is reached: address, name, password and certificates.

use redis::{Client, IntoConnectionInfo, RedisError, TlsCertificates};

use super::RemoteOptions;

/// What Redis calls a command on a key that holds something of another kind.
pub(super) const WRONG_TYPE: &str = "WRONGTYPE";

/// Why a Redis cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RemoteFault {
    /// No connection can be made of the options.
    #[error("reading the address and the certificates of redis")]
    Unreadable(#[source] RedisError),
    /// It does not answer as a server needs it.
    #[error("asking redis for what a server needs")]
    Unreached(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl RemoteOptions {
    /// Reads the address and the certificates, so that what is wrong with them stops the start.
    pub fn check(&self) -> Result<(), RemoteFault> {
        client(self).map(drop).map_err(RemoteFault::Unreadable)
    }
}

/// A client; it connects when asked.
pub(super) fn client(options: &RemoteOptions) -> Result<Client, RedisError> {
    // Should a second provider be linked, neither is the default. Where one was chosen before, that one stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let info = options.url.as_str().into_connection_info()?;
    let mut login = info.redis_settings().clone();
    if let Some(user) = &options.user {
        login = login.set_username(user);
    }
    if let Some(password) = &options.password {
        login = login.set_password(password);
    }
    let info = info.set_redis_settings(login);
    match &options.ca {
        None => Client::open(info),
        Some(ca) => {
            let certificates = TlsCertificates {
                client_tls: None,
                root_cert: Some(ca.clone()),
            };
            Client::build_with_tls(info, certificates)
        }
    }
}
