//! One connection to one server: TCP or a unix socket, TLS, login.
//!
//! Everything that can be rotated (password, authority, client certificate) is read for each connection. The stream
//! is made here and not by the library, so that its TLS is the process's own, a certificate may carry another name
//! than the address, and the task that drives the connection has an owner: dropping a [`Connection`] ends it, which
//! is the only way to be rid of a link whose other end is silent.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, PushInfo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::RedisConfig;
use super::fault::Fault;
use super::url::Node;

/// TLS towards Redis, beside the `rediss` in the URL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedisTls {
    /// PEM. None: the system's authorities, or those of the file that `SSL_CERT_FILE` names.
    pub ca_file: Option<PathBuf>,
    pub client: Option<ClientCertificate>,
    /// The name in the servers' certificates, where it is not the address: sentinels and clusters name addresses.
    pub server_name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

/// Called by the connection's driver, in the order of the wire. Must not block.
pub type PushHandler = Box<dyn Fn(PushInfo) + Send + Sync>;

/// Whom to log in as. Sentinels have users of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    Store,
    Sentinel,
}

/// A connection, and the task that drives it.
#[derive(Debug)]
pub struct Connection {
    link: MultiplexedConnection,
    driver: JoinHandle<()>,
    pub node: Node,
}

impl Connection {
    /// A handle to send commands with. It does not keep the connection alive.
    #[must_use]
    pub fn link(&self) -> MultiplexedConnection {
        self.link.clone()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// # Errors
/// The server cannot be reached within `limit`, fails TLS, or refuses the login or RESP3.
pub async fn open(
    config: &RedisConfig,
    node: &Node,
    login: Login,
    limit: Duration,
    on_push: Option<PushHandler>,
) -> Result<Connection, Fault> {
    let opened = tokio::time::timeout(limit, open_unbounded(config, node, login, on_push)).await;
    match opened {
        Err(_) => Err(Fault::Unreachable(format!("{node}: no answer in time"))),
        Ok(Err(fault)) if fault.is_unknown() => Err(Fault::Unreachable(format!("{node}: {fault}"))),
        Ok(opened) => opened,
    }
}

async fn open_unbounded(
    config: &RedisConfig,
    node: &Node,
    login: Login,
    on_push: Option<PushHandler>,
) -> Result<Connection, Fault> {
    let info = login_of(config, login).await?;
    // Whoever asks bounds the wait: a heartbeat and a copy of all grants are not of one length.
    let mut options = AsyncConnectionConfig::new().set_response_timeout(None);
    if let Some(on_push) = on_push {
        options = options.set_push_sender(move |push: PushInfo| -> Result<(), ()> {
            on_push(push);
            Ok(())
        });
    }
    let lost = |error: std::io::Error| Fault::Unreachable(format!("{node}: {error}"));
    let (link, driver) = match node {
        Node::Unix(path) => drive(&info, UnixStream::connect(path).await.map_err(lost)?, options).await?,
        Node::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(lost)?;
            stream.set_nodelay(true).map_err(lost)?;
            if config.url.has_tls {
                drive(&info, encrypt(&config.tls, host, stream).await?, options).await?
            } else {
                drive(&info, stream, options).await?
            }
        }
    };
    Ok(Connection { link, driver, node: node.clone() })
}

async fn drive(
    info: &ConnectionInfo,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    options: AsyncConnectionConfig,
) -> Result<(MultiplexedConnection, JoinHandle<()>), Fault> {
    let (link, driver) =
        MultiplexedConnection::new_with_config(info.redis_settings(), stream, options).await?;
    Ok((link, tokio::spawn(driver)))
}

/// User, password and database for this connection. The address in it is not used.
async fn login_of(config: &RedisConfig, login: Login) -> Result<ConnectionInfo, Fault> {
    let info = "redis://localhost".into_connection_info()?;
    let mut settings =
        info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
    let (user, password, password_file) = match login {
        Login::Store => {
            settings = settings.set_db(config.url.db);
            (&config.url.user, &config.url.password, &config.password_file)
        }
        Login::Sentinel => (&config.sentinel.user, &None, &config.sentinel.password_file),
    };
    if let Some(user) = user {
        settings = settings.set_username(user);
    }
    if let Some(path) = password_file {
        let password = tokio::fs::read_to_string(path).await.map_err(|error| unreadable(path, &error))?;
        settings = settings.set_password(password.trim_end());
    } else if let Some(password) = password {
        settings = settings.set_password(password);
    }
    Ok(info.set_redis_settings(settings))
}

async fn encrypt(
    tls: &RedisTls,
    host: &str,
    stream: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Fault> {
    let broken = |error: &dyn std::fmt::Display| Fault::Tls(error.to_string());
    let name = tls.server_name.as_deref().unwrap_or(host).to_owned();
    let name = ServerName::try_from(name).map_err(|error| broken(&error))?;
    let tls = tls.clone();
    // Reading the system's authorities takes milliseconds.
    let client = tokio::task::spawn_blocking(move || client_config(&tls)).await;
    let client = client.map_err(|error| broken(&error))??;
    TlsConnector::from(Arc::new(client)).connect(name, stream).await.map_err(|error| broken(&error))
}

fn client_config(tls: &RedisTls) -> Result<rustls::ClientConfig, Fault> {
    let mut roots = rustls::RootCertStore::empty();
    match &tls.ca_file {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| unreadable(path, &error))?;
            }
        }
        // What of the system's store is no certificate is of no use and does no harm.
        None => _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
    }
    let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
    let Some(ClientCertificate { cert_file, key_file }) = &tls.client else {
        return Ok(builder.with_no_client_auth());
    };
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| unreadable(key_file, &error))?;
    builder
        .with_client_auth_cert(certificates(cert_file)?, key)
        .map_err(|error| unreadable(cert_file, &error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(path, &error));
    match found {
        Ok(found) if found.is_empty() => Err(unreadable(path, &"no certificate in it")),
        found => found,
    }
}

fn unreadable(path: &Path, reason: &dyn std::fmt::Display) -> Fault {
    Fault::File { path: path.display().to_string(), reason: reason.to_string() }
}
