//! The API listener: HTTP/1.1 and HTTP/2, in clear or over TLS, and behind the gate whatever is served. A connection
//! on which nobody was admitted is nobody's: it has little time, and is given up for those that are somebody's.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use http::header::AUTHORIZATION;
use http::request::Parts;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::api_call::{Call, Calls};
use super::guests::{Guests, Known};
use super::tls::LiveTls;
use crate::api::{Gate, Peer, Presented, Refusal, check_origin, network};

/// Connections that have said something. Clients have one or a few each.
const MAX_CONNECTIONS: usize = 512;
/// Of these, those of one address, or one IPv6 network of 64 bits. A proxy in front has this many at most.
const MAX_CONNECTIONS_OF_NETWORK: usize = 128;
/// Connections that have not said enough yet. Of more, the oldest is given up: an honest one takes milliseconds.
const MAX_HANDSHAKES: usize = 128;
/// From the connection to the first byte, or to the end of the TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// From there to the first call that is admitted. Some clients connect before they have anything to ask.
const STRANGER_LIMIT: Duration = Duration::from_secs(30);
/// Of one HTTP/1.1 request header, and of silence between two.
const HEADER_LIMIT: Duration = Duration::from_secs(30);
/// HTTP/2 peers that are gone are found out by pings this far apart.
const PING_PERIOD: Duration = Duration::from_secs(30);
const PING_LIMIT: Duration = Duration::from_secs(20);
/// Calls on one HTTP/2 connection at a time, streams of events among them: as many as one caller may have.
const MAX_STREAMS: u32 = 64;
/// Bytes of a call, and of all calls of an HTTP/2 connection, that may arrive before somebody takes them.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 256 << 10;
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
    known: Known,
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
    let door = Arc::new(Door { gate, calls: Calls::new() });
    let router = router.layer(from_fn_with_state(door, admit));
    let mut stopped = std::pin::pin!(super::wait_until_stopped(stopped));
    let graceful = GracefulShutdown::new();
    let mut handshakes: JoinSet<Option<(Stream, Peer)>> = JoinSet::new();
    let mut pending = Guests::new(MAX_HANDSHAKES, MAX_HANDSHAKES);
    let mut connections: JoinSet<()> = JoinSet::new();
    let mut guests = Guests::new(MAX_CONNECTIONS, MAX_CONNECTIONS_OF_NETWORK);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    let network = network(address.ip());
                    if pending.make_room(network) {
                        let task = handshakes.spawn(handshake(stream, address, tls.clone()));
                        pending.enter(network, Known::default(), task);
                    }
                }
                Err(error) => {
                    tracing::debug!("cannot accept a connection to the API: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(done) = handshakes.join_next() => {
                let Ok(Some((stream, peer))) = done else { continue };
                let network = network(peer.address);
                if !guests.make_room(network) {
                    tracing::warn!(peer = %peer.address, "too many connections to the API; one is closed");
                    continue;
                }
                let known = Known::default();
                let connection = Connection { peer, known: known.clone() };
                let task = connections.spawn(converse(stream, connection, router.clone(), graceful.watcher()));
                guests.enter(network, known, task);
            },
            Some(_) = connections.join_next() => {}
            () = &mut stopped => break,
        }
    }
    drop((listener, handshakes));
    graceful.shutdown().await;
    Ok(())
}

struct Door {
    gate: Arc<Gate>,
    calls: Calls,
}

impl Door {
    async fn pass(&self, request: &mut Parts, connection: &Connection) -> Result<Call, Refusal> {
        check_origin(&request.method, &request.uri, &request.headers)?;
        let identity = self.gate.admit(request.uri.path(), &request.headers, &connection.peer).await?;
        let call = self.calls.begin(identity.as_ref(), network(connection.peer.address))?;
        if let Some(identity) = identity {
            connection.known.set();
            request.extensions.insert(identity);
        }
        Ok(call)
    }
}

/// The gate, around every request.
async fn admit(State(door): State<Arc<Door>>, mut request: Request, next: Next) -> Response {
    let Some(connection) = request.extensions_mut().remove::<Connection>() else {
        // No connection of ours: nobody.
        let mut response = Response::default();
        *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        return response;
    };
    let (mut parts, body) = request.into_parts();
    match door.pass(&mut parts, &connection).await {
        Ok(call) => {
            // It has done what it is for, and nobody can log it by mistake.
            parts.headers.remove(AUTHORIZATION);
            parts.extensions.insert(connection.peer);
            let request = Request::from_parts(parts, call.receive(body));
            next.run(request).await.map(|body| call.send(body))
        }
        Err(refusal) => refusal.answer(&parts.headers).map(Body::from),
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
    let known = connection.known.clone();
    let router = router.layer(axum::Extension(connection));
    let talk = async {
        match stream {
            Stream::Clear(stream) => talk(stream, router, watcher).await,
            Stream::Tls(stream) => talk(*stream, router, watcher).await,
        }
    };
    let stays_strange = async {
        tokio::time::sleep(STRANGER_LIMIT).await;
        if known.get() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = talk => {}
        () = stays_strange => {}
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
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_BYTES);
    let connection =
        builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).into_owned();
    // How it ended concerns its own peer alone.
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!("a connection to the API ended: {error}");
    }
}
