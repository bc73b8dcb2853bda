//! TLS of the API listener, from files that may change while it runs. New connections get what the files say; files
//! that do not fit together leave what was there before, and say so.

use std::convert::Infallible;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;

use crate::config::{ClientAuth, TlsFiles};

/// Between two looks at the files.
const PERIOD: Duration = Duration::from_secs(2);
/// Of one file. A bundle of all public authorities has some 200 KiB.
const MAX_FILE_BYTES: u64 = 1 << 20;

#[derive(Debug, Error)]
#[error("{place}: {reason}")]
pub struct TlsError {
    place: String,
    reason: String,
}

impl TlsError {
    fn at(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self { place: path.display().to_string(), reason: reason.to_string() }
    }
}

/// The files as they were read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Contents {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        Ok(Self {
            cert: read(&files.cert_file)?,
            key: read(&files.key_file)?,
            client_ca: files.client_ca.as_ref().map(|(path, _)| read(path)).transpose()?,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| TlsError::at(path, error))?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| TlsError::at(path, error))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(TlsError::at(path, format!("larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(bytes)
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(TlsError::at(path, "no certificate in it")),
        found => found.map_err(|error| TlsError::at(path, error)),
    }
}

/// Who signs client certificates. None: nobody does. A file that was emptied says so, a broken one does not.
fn client_roots(path: &Path, pem: &[u8]) -> Result<Option<RootCertStore>, TlsError> {
    if pem.iter().all(u8::is_ascii_whitespace) {
        tracing::warn!("{}: empty; no client certificate is accepted", path.display());
        return Ok(None);
    }
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, pem)? {
        roots.add(certificate).map_err(|error| TlsError::at(path, error))?;
    }
    Ok(Some(roots))
}

/// None: a certificate is required that nobody can have.
fn configure(files: &TlsFiles, contents: &Contents) -> Result<Option<Arc<ServerConfig>>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::at(&files.cert_file, error))?;
    let builder = match (&files.client_ca, &contents.client_ca) {
        (Some((path, client_auth)), Some(pem)) => match (client_roots(path, pem)?, client_auth) {
            (None, ClientAuth::Required) => return Ok(None),
            (None, ClientAuth::Optional) => builder.with_no_client_auth(),
            (Some(roots), client_auth) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = match client_auth {
                    ClientAuth::Required => verifier,
                    ClientAuth::Optional => verifier.allow_unauthenticated(),
                };
                builder
                    .with_client_cert_verifier(verifier.build().map_err(|error| TlsError::at(path, error))?)
            }
        },
        _ => builder.with_no_client_auth(),
    };
    let key =
        PrivateKeyDer::from_pem_slice(&contents.key).map_err(|error| TlsError::at(&files.key_file, error))?;
    let mut config = builder
        .with_single_cert(certificates(&files.cert_file, &contents.cert)?, key)
        .map_err(|error| TlsError::at(&files.cert_file, error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A session that is resumed would bring along a certificate that nobody has looked at again.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Some(Arc::new(config)))
}

pub struct LiveTls {
    files: TlsFiles,
    current: ArcSwapOption<ServerConfig>,
}

impl LiveTls {
    /// # Errors
    /// A file cannot be read, or they do not fit together.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let config = configure(files, &Contents::read(files)?)?;
        Ok(Self { files: files.clone(), current: ArcSwapOption::new(config) })
    }

    /// For one connection. None: no connection is good.
    #[must_use]
    pub fn acceptor(&self) -> Option<TlsAcceptor> {
        self.current.load_full().map(TlsAcceptor::from)
    }

    pub async fn follow(self: Arc<Self>) -> Infallible {
        let (mut last, mut said) = (None, String::new());
        loop {
            tokio::time::sleep(PERIOD).await;
            let files = self.files.clone();
            let contents = match tokio::task::spawn_blocking(move || Contents::read(&files)).await {
                Ok(contents) => contents,
                Err(error) => Err(TlsError { place: "api.tls".to_owned(), reason: error.to_string() }),
            };
            let changed = match contents {
                Ok(contents) if last.as_ref() == Some(&contents) => continue,
                Ok(contents) => {
                    let config = configure(&self.files, &contents);
                    // The first look is only what is in force already, or changed just now.
                    let is_first = last.is_none();
                    last = Some(contents);
                    config.map(|config| (config, is_first))
                }
                Err(error) => Err(error),
            };
            match changed {
                Ok((config, is_first)) => {
                    self.current.store(config);
                    said.clear();
                    if !is_first {
                        tracing::info!("the API's TLS files have changed; new connections use them");
                    }
                }
                Err(error) => {
                    let message = error.to_string();
                    if message != said {
                        tracing::error!("{message}; the API's TLS files of before stay in use");
                        said = message;
                    }
                }
            }
        }
    }
}
