//! The API listener: HTTP/1.1 and HTTP/2, in clear or over TLS, and behind the gate whatever is served. A connection
//! that does not get to its first request is nobody's, and is given up for those that do.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use http::header::AUTHORIZATION;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::tls::LiveTls;
use crate::api::{Gate, Peer, Presented};

/// Connections that have said something. Clients have one or a few each.
const MAX_CONNECTIONS: usize = 512;
/// Connections that have not said enough yet. Of more, the oldest is given up: an honest one takes milliseconds.
const MAX_HANDSHAKES: usize = 128;
/// From the connection to the first byte, or to the end of the TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// From there to the first whole request header. Some clients connect before they have anything to ask.
const FIRST_REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// Of one HTTP/1.1 request header, and of silence between two.
const HEADER_LIMIT: Duration = Duration::from_secs(30);
/// HTTP/2 peers that are gone are found out by pings this far apart.
const PING_PERIOD: Duration = Duration::from_secs(30);
const PING_LIMIT: Duration = Duration::from_secs(20);
/// Calls on one HTTP/2 connection at a time, streams of events among them.
const MAX_STREAMS: u32 = 256;
/// Bytes of one call's header: a token of 8 KiB and what else there is.
const MAX_HEADER_BYTES: u32 = 32 << 10;
/// Bytes that an HTTP/1.1 connection may have read and not handed on.
const MAX_BUFFER_BYTES: usize = 64 << 10;
/// While there are no file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a connection is known by, on each of its requests.
#[derive(Clone)]
struct Connection {
    peer: Peer,
    has_asked: Arc<AtomicBool>,
}

/// Serves the router behind the gate, until told to stop; then lets calls in flight end.
///
/// # Errors
/// None at present: what a connection does wrong ends that connection alone.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<LiveTls>>,
    gate: Arc<Gate>,
    router: Router,
    stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    let router = router.layer(from_fn_with_state(gate, admit));
    let mut stopped = std::pin::pin!(super::wait_until_stopped(stopped));
    let graceful = GracefulShutdown::new();
    let mut handshakes: JoinSet<Option<(Stream, Peer)>> = JoinSet::new();
    let mut pending: Vec<AbortHandle> = Vec::new();
    let mut connections: JoinSet<()> = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    pending.retain(|handshake| !handshake.is_finished());
                    if pending.len() >= MAX_HANDSHAKES {
                        pending.remove(0).abort();
                    }
                    pending.push(handshakes.spawn(handshake(stream, address, tls.clone())));
                }
                Err(error) => {
                    tracing::debug!("cannot accept a connection to the API: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(done) = handshakes.join_next() => {
                let Ok(Some((stream, peer))) = done else { continue };
                if connections.len() >= MAX_CONNECTIONS {
                    tracing::warn!(peer = %peer.address, "too many connections to the API; one is closed");
                    continue;
                }
                let watcher = graceful.watcher();
                let connection = Connection { peer, has_asked: Arc::default() };
                connections.spawn(converse(stream, connection, router.clone(), watcher));
            },
            Some(_) = connections.join_next() => {}
            () = &mut stopped => break,
        }
    }
    drop((listener, handshakes));
    graceful.shutdown().await;
    Ok(())
}

/// The gate, around every request.
async fn admit(State(gate): State<Arc<Gate>>, mut request: Request, next: Next) -> Response {
    let Some(connection) = request.extensions_mut().remove::<Connection>() else {
        // No connection of ours: nobody.
        let mut response = Response::default();
        *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        return response;
    };
    connection.has_asked.store(true, Ordering::Relaxed);
    match gate.admit(request.uri().path(), request.headers(), &connection.peer).await {
        Ok(identity) => {
            // It has done what it is for, and nobody can log it by mistake.
            request.headers_mut().remove(AUTHORIZATION);
            request.extensions_mut().insert(connection.peer);
            if let Some(identity) = identity {
                request.extensions_mut().insert(identity);
            }
            next.run(request).await
        }
        Err(refusal) => refusal.answer(request.headers()).map(Body::from),
    }
}

enum Stream {
    Clear(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection that is ready to say who it is.
async fn handshake(
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<Arc<LiveTls>>,
) -> Option<(Stream, Peer)> {
    let ready = async {
        stream.set_nodelay(true).ok()?;
        let Some(tls) = tls else {
            // Not before it says anything: until then it is not worth more than this.
            stream.readable().await.ok()?;
            return Some((Stream::Clear(stream), None));
        };
        let stream = match tls.acceptor()?.accept(stream).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(peer = %address, "a TLS handshake with the API failed: {error}");
                return None;
            }
        };
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let certificate = chain.first().map(|certificate| Arc::new(Presented::read(certificate)));
        Some((Stream::Tls(Box::new(stream)), certificate))
    };
    let (stream, certificate) = timeout(HANDSHAKE_LIMIT, ready).await.ok()??;
    Some((stream, Peer { address: address.ip(), certificate }))
}

async fn converse(stream: Stream, connection: Connection, router: Router, watcher: Watcher) {
    let has_asked = Arc::clone(&connection.has_asked);
    let router = router.layer(axum::Extension(connection));
    let talk = async {
        match stream {
            Stream::Clear(stream) => talk(stream, router, watcher).await,
            Stream::Tls(stream) => talk(*stream, router, watcher).await,
        }
    };
    let silence = async {
        tokio::time::sleep(FIRST_REQUEST_LIMIT).await;
        if has_asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = talk => {}
        () = silence => {}
    }
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    watcher: Watcher,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT).max_buf_size(MAX_BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_PERIOD)
        .keep_alive_timeout(PING_LIMIT)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES);
    let connection =
        builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).into_owned();
    // How it ended concerns its own peer alone.
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!("a connection to the API ended: {error}");
    }
}
