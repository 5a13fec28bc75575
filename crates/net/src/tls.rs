//! rustls configurations for servers and clients, and development certificates for the demo.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

/// Why TLS could not be set up. Names files, never their content.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("`{path}` holds no usable {what}: give a PEM file")]
    Pem { path: String, what: &'static str },
    #[error("the certificate and its key do not fit together, or the certificate cannot be used: {0}")]
    Config(#[from] rustls::Error),
    #[error("the client authorities in `{path}` cannot be used: give a PEM file of CA certificates")]
    Authorities { path: String },
    #[error("a development certificate could not be made: {0}")]
    Development(#[from] rcgen::Error),
    #[error("`{path}` could not be written: {source}")]
    Write { path: String, source: std::io::Error },
}

/// Installs the process-wide provider once; later calls do nothing.
pub fn install_provider() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad = || TlsError::Pem { path: path.display().to_string(), what: "certificate" };
    let found: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(|_| bad())?.collect::<Result<_, _>>().map_err(|_| bad())?;
    if found.is_empty() { Err(bad()) } else { Ok(found) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|_| TlsError::Pem { path: path.display().to_string(), what: "private key" })
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|_| TlsError::Authorities { path: path.display().to_string() })?;
    }
    Ok(store)
}

/// TLS 1.2 and 1.3. With `client_authorities`, a client must show a certificate that one of them signed.
pub fn server_config(
    certificate: &Path,
    key: &Path,
    client_authorities: Option<&Path>,
    protocols: &[&str],
) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    install_provider();
    let builder = rustls::ServerConfig::builder();
    let builder = match client_authorities {
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder(Arc::new(authorities(path)?))
                .build()
                .map_err(|_| TlsError::Authorities { path: path.display().to_string() })?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(certificates(certificate)?, private_key(key)?)?;
    config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

/// A client that trusts one file of authorities, with its own certificate where the server asks for one.
pub fn client_config(
    authority: &Path,
    identity: Option<(&Path, &Path)>,
) -> Result<Arc<rustls::ClientConfig>, TlsError> {
    install_provider();
    let builder = rustls::ClientConfig::builder().with_root_certificates(authorities(authority)?);
    Ok(Arc::new(match identity {
        Some((certificate, key)) => builder.with_client_auth_cert(certificates(certificate)?, private_key(key)?)?,
        None => builder.with_no_client_auth(),
    }))
}

/// An authority, a server and a client certificate for trying things on one machine. Never for production:
/// the authority's key lies beside them.
#[derive(Debug)]
pub struct DevCertificates;

impl DevCertificates {
    /// Writes `ca.pem`, `server.pem`, `server.key`, `client.pem`, `client.key` into `folder` unless they exist.
    pub fn ensure(folder: &Path) -> Result<(), TlsError> {
        if folder.join("server.pem").exists() {
            return Ok(());
        }
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            write_private(&path, text).map_err(|source| TlsError::Write { path: path.display().to_string(), source })
        };
        std::fs::create_dir_all(folder)
            .map_err(|source| TlsError::Write { path: folder.display().to_string(), source })?;

        let ca_key = rcgen::KeyPair::generate()?;
        let mut ca_params = rcgen::CertificateParams::new(Vec::new())?;
        ca_params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        ca_params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        ca_params.distinguished_name.push(rcgen::DnType::CommonName, "Wardmesh development authority");
        let ca_certificate = ca_params.self_signed(&ca_key)?;
        let ca = rcgen::Issuer::from_params(&ca_params, &ca_key);

        for (name, usage, names) in [
            ("client", rcgen::ExtendedKeyUsagePurpose::ClientAuth, vec!["development-client".to_owned()]),
            (
                "server",
                rcgen::ExtendedKeyUsagePurpose::ServerAuth,
                vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()],
            ),
        ] {
            let key = rcgen::KeyPair::generate()?;
            let mut params = rcgen::CertificateParams::new(names)?;
            params.distinguished_name.push(rcgen::DnType::CommonName, format!("Wardmesh development {name}"));
            params.extended_key_usages = vec![usage];
            params.use_authority_key_identifier_extension = true;
            let certificate = params.signed_by(&key, &ca)?;
            write(&format!("{name}.key"), &key.serialize_pem())?;
            write(&format!("{name}.pem"), &certificate.pem())?;
        }
        write("ca.pem", &ca_certificate.pem())
    }
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
