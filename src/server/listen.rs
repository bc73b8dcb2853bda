//! Listeners: bound before anything is served, with errors that say which flag to change.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;

use super::worker::{Connection, Connections};
use crate::config::Listen;

/// Owner and group: Envoy's user joins the group, others cannot ask.
const SOCKET_MODE: u32 = 0o660;

#[derive(Debug, Error)]
pub enum ListenError {
    #[error("cannot listen on {address} (change it with {flag})")]
    Tcp { flag: &'static str, address: SocketAddr, source: io::Error },
    #[error("cannot listen on unix://{} (change it with --listen)", .path.display())]
    Unix { path: PathBuf, source: io::Error },
    #[error("cannot listen on unix://{}: another process answers there (change it with --listen)", .0.display())]
    InUse(PathBuf),
}

pub async fn bind_tcp(flag: &'static str, address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError::Tcp { flag, address, source })
}

/// Where Envoy asks.
pub enum CheckListener {
    Tcp(TcpListener),
    Unix { listener: UnixListener, path: PathBuf },
}

impl CheckListener {
    pub async fn bind(listen: &Listen) -> Result<Self, ListenError> {
        match listen {
            Listen::Tcp(address) => bind_tcp("--listen", *address).await.map(Self::Tcp),
            Listen::Unix(path) => bind_unix(path).await,
        }
    }

    pub fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => {
                listener.local_addr().map_or_else(|_| "?".to_owned(), |address| address.to_string())
            }
            Self::Unix { path, .. } => format!("unix://{}", path.display()),
        }
    }

    /// Hands connections to the workers in turn, until told to stop.
    pub async fn accept_for(
        self,
        connections: Connections,
        mut stopped: watch::Receiver<bool>,
    ) -> Result<(), io::Error> {
        loop {
            let accepted = tokio::select! {
                accepted = self.accept() => accepted,
                _ = stopped.wait_for(|is_stopped| *is_stopped) => return Ok(()),
            };
            match accepted {
                Ok(connection) => connections.give(connection)?,
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    // Out of file descriptors, most likely: existing connections go on, so wait rather than end.
                    tracing::error!("cannot accept a connection: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn accept(&self) -> io::Result<Connection> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _): (TcpStream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Connection::Tcp(stream.into_std()?))
            }
            Self::Unix { listener, .. } => {
                let (stream, _): (UnixStream, _) = listener.accept().await?;
                Ok(Connection::Unix(stream.into_std()?))
            }
        }
    }
}

impl Drop for CheckListener {
    fn drop(&mut self) {
        if let Self::Unix { path, .. } = self {
            // If it is gone already, that is what was wanted.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
    )
}

/// A socket file outlives a killed process. One that nobody answers on is replaced, one that somebody does is not.
async fn bind_unix(path: &Path) -> Result<CheckListener, ListenError> {
    let failed = |source| ListenError::Unix { path: path.to_owned(), source };
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)?;
            }
            Ok(_) => return Err(ListenError::InUse(path.to_owned())),
            Err(error) => return Err(failed(error)),
        }
    }
    if std::fs::symlink_metadata(path).is_ok() {
        return Err(failed(io::ErrorKind::AddrInUse.into()));
    }
    // Under its name only once it has its mode, so that nobody slips in before.
    let draft = path.with_extension(format!("{}.tmp", std::process::id()));
    let listener = UnixListener::bind(&draft).map_err(failed)?;
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
    std::fs::rename(&draft, path).map_err(failed)?;
    Ok(CheckListener::Unix { listener, path: path.to_owned() })
}
