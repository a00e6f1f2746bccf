//! TLS for `https` endpoints: rustls with ring, the same authorities for both transports.

use std::{fs, path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tonic::transport::{ClientTlsConfig, Identity};

use super::SetupError;
use crate::export::Certificates;

/// For the gRPC client.
pub(super) fn for_grpc(certificates: &Certificates) -> Result<ClientTlsConfig, SetupError> {
    let mut config = ClientTlsConfig::new().trust_anchors(roots(certificates)?.roots);
    if let Some((chain, key)) = &certificates.client {
        config = config.identity(Identity::from_pem(read(chain)?, read(key)?));
    }
    Ok(config)
}

/// For the HTTP client. Without TLS in the URL no certificate is looked for: a slim image has none.
pub(super) fn for_http(certificates: &Certificates, scheme: &str) -> Result<ClientConfig, SetupError> {
    let roots = if scheme == "https" { roots(certificates)? } else { RootCertStore::empty() };
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| SetupError::Client(error.to_string()))?
        .with_root_certificates(roots);
    let Some((chain, key)) = certificates.client.as_ref().filter(|_| scheme == "https") else {
        return Ok(builder.with_no_client_auth());
    };
    let certificate_chain = chain_of(chain)?;
    let private_key = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, &error))?;
    builder.with_client_auth_cert(certificate_chain, private_key).map_err(|error| wrong(chain, &error))
}

/// The authority that is set, or else those of the system and those that browsers trust.
fn roots(certificates: &Certificates) -> Result<RootCertStore, SetupError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &certificates.authority {
        for certificate in chain_of(path)? {
            roots.add(certificate).map_err(|error| wrong(path, &error))?;
        }
        return Ok(roots);
    }
    // Unreadable system certificates are no reason to stop: the built-in ones are enough for public collectors.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    Ok(roots)
}

fn chain_of(path: &Path) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(path, &error))?;
    if chain.is_empty() {
        return Err(wrong(path, &"no PEM certificate in it"));
    }
    Ok(chain)
}

fn read(path: &Path) -> Result<Vec<u8>, SetupError> {
    fs::read(path).map_err(|error| wrong(path, &error))
}

fn wrong(path: &Path, cause: &dyn std::fmt::Display) -> SetupError {
    SetupError::Certificate { path: path.to_owned(), cause: cause.to_string() }
}
