//! Clients that keep a stream open and note when what came last came, and when it ended.

use std::time::{Duration, Instant};

use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::IntervalStream;

use super::ticker::{GRPC_TICK, TICK};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Chunked,
    Sse,
    UnfinishedPost,
    WebSocket,
    GrpcServerStream,
    GrpcBidi,
    Connect,
    /// An upstream that never answers.
    Silent,
}

impl Ran {
    fn new() -> Self {
        let now = Instant::now();
        Self { status: String::new(), reads: 0, last: now, closed: now, end: String::new() }
    }
}

impl Kind {
    /// Those that bring data all the time.
    pub const TALKING: [Self; 7] = [
        Self::Chunked,
        Self::Sse,
        Self::UnfinishedPost,
        Self::WebSocket,
        Self::GrpcServerStream,
        Self::GrpcBidi,
        Self::Connect,
    ];
}

/// How a stream went.
#[derive(Debug)]
pub struct Ran {
    /// The first line, or the HTTP/2 status.
    pub status: String,
    pub reads: u32,
    /// When data last came.
    pub last: Instant,
    pub closed: Instant,
    /// `grpc-status` if one came, or why it broke.
    pub end: String,
}

/// How long anything here may last.
const PATIENCE: Duration = Duration::from_secs(60);

/// Opens a stream for `name`, which is its host, and stays on it until it ends. `began` is told when data comes.
pub async fn run(kind: Kind, ingress: &str, token: &str, name: &str, began: impl FnOnce() + Send) -> Ran {
    let stream = TcpStream::connect(ingress).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let ran = async {
        let (head, talk) = match kind {
            Kind::GrpcServerStream | Kind::GrpcBidi => {
                return grpc(stream, kind, token, name, "10S", began).await;
            }
            Kind::Chunked => (format!("GET /chunked HTTP/1.1\r\nhost: {name}\r\n"), None),
            Kind::Sse => (format!("GET /sse HTTP/1.1\r\nhost: {name}\r\n"), None),
            Kind::Silent => (format!("GET /silent HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n"), None),
            Kind::UnfinishedPost => (
                format!("POST /post HTTP/1.1\r\nhost: {name}\r\ntransfer-encoding: chunked\r\n"),
                Some("4\r\ntalk\r\n".to_owned()),
            ),
            Kind::WebSocket => (
                format!(
                    "GET /ws HTTP/1.1\r\nhost: {name}\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                     sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                ),
                Some("\u{1}\u{4}talk".to_owned()),
            ),
            Kind::Connect => {
                (format!("CONNECT {name}:5432 HTTP/1.1\r\nhost: {name}:5432\r\n"), Some(format!("{name}\n")))
            }
        };
        let head = format!("{head}authorization: Bearer {token}\r\n\r\n");
        plain(stream, Some(&head), talk.as_deref(), began).await
    };
    tokio::time::timeout(PATIENCE, ran).await.expect("a stream that never ended")
}

/// Anything that is bytes: says `head`, if there is one, and `talk` all the time, and reads to the end.
pub async fn plain(
    stream: impl AsyncRead + AsyncWrite,
    head: Option<&str>,
    talk: Option<&str>,
    began: impl FnOnce(),
) -> Ran {
    let (mut reader, mut writer) = tokio::io::split(stream);
    writer.write_all(head.unwrap_or_default().as_bytes()).await.unwrap();
    let mut ticks = tokio::time::interval(TICK);
    let (mut answer, mut buffer, mut began) = (Vec::new(), [0; 4096], Some(began));
    let mut ran = Ran::new();
    loop {
        tokio::select! {
            read = reader.read(&mut buffer) => match read {
                Ok(count @ 1..) => {
                    answer.extend_from_slice(&buffer[..count]);
                    ran.reads += 1;
                    ran.last = Instant::now();
                    if ran.reads == 2 && let Some(began) = began.take() {
                        began();
                    }
                }
                Ok(0) => { ran.end = String::from("end of file"); break }
                Err(error) => { ran.end = error.to_string(); break }
            },
            // Nobody may listen any more.
            _ = ticks.tick(), if talk.is_some() && ran.reads > 0 => {
                let _ = writer.write_all(talk.unwrap_or_default().as_bytes()).await;
            }
        }
    }
    ran.closed = Instant::now();
    ran.status = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
    if ran.status.contains(" 403 ") {
        ran.status = String::from_utf8_lossy(&answer).into_owned();
    }
    ran
}

/// A gRPC call, whose client is in no hurry.
pub async fn grpc(
    stream: TcpStream,
    kind: Kind,
    token: &str,
    name: &str,
    timeout: &str,
    began: impl FnOnce(),
) -> Ran {
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let once = matches!(kind, Kind::GrpcServerStream);
    let talk = IntervalStream::new(tokio::time::interval(TICK)).take(if once { 1 } else { usize::MAX });
    let body = StreamBody::new(
        talk.map(|_| Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(GRPC_TICK)))),
    );
    let mut request = hyper::Request::post(format!("http://{name}/ticks.Ticks/Watch"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {token}"));
    if !timeout.is_empty() {
        request = request.header("grpc-timeout", timeout);
    }
    let mut ran = Ran::new();
    let response = match send.send_request(request.body(body).unwrap()).await {
        Ok(response) => response,
        Err(error) => return Ran { end: error.to_string(), closed: Instant::now(), ..ran },
    };
    ran.status = response.status().to_string();
    let status_of = |headers: &hyper::HeaderMap| {
        headers.get("grpc-status").map(|status| format!("grpc-status {}", status.to_str().unwrap()))
    };
    ran.end = status_of(response.headers()).unwrap_or_default();
    let (mut body, mut began) = (response.into_body(), Some(began));
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                if let Some(trailers) = frame.trailers_ref() {
                    ran.end = status_of(trailers).unwrap_or_default();
                    continue;
                }
                ran.reads += 1;
                ran.last = Instant::now();
                if ran.reads == 2
                    && let Some(began) = began.take()
                {
                    began();
                }
            }
            Err(error) => {
                ran.end = error.to_string();
                break;
            }
        }
    }
    ran.closed = Instant::now();
    ran
}
