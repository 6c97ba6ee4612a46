//! What is served by PostgreSQL's protocol: from settings to the bounds of the server.

use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sheaf_config::{Certificate, PgWire};
use sheaf_server::PgWireBounds;

/// The bounds of the settings, with the certificate read.
pub(crate) fn bounds(settings: &PgWire) -> Result<PgWireBounds> {
    let tls = settings.certificate.as_ref().map(tls).transpose()?;
    Ok(PgWireBounds {
        connections_max: settings.connections_max,
        connections_of_tenant_max: settings.connections_of_tenant_max,
        idle_max: settings.idle_max,
        tls,
        takes_cleartext: settings.takes_cleartext,
        ..PgWireBounds::default()
    })
}

fn tls(certificate: &Certificate) -> Result<Arc<ServerConfig>> {
    let Certificate {
        certificate_file,
        key_file,
    } = certificate;
    let reading = |path: &std::path::Path| format!("reading {}", path.display());
    let chain = CertificateDer::pem_file_iter(certificate_file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| reading(certificate_file))?;
    let key = PrivateKeyDer::from_pem_file(key_file).with_context(|| reading(key_file))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("choosing versions of TLS")?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .with_context(|| format!("using the certificate {}", certificate_file.display()))?;
    Ok(Arc::new(config))
}
