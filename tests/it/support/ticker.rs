//! An upstream whose answers never end by themselves: a tick every few milliseconds by HTTP/1.1, WebSocket, gRPC or plain TCP.
//! It remembers by name (of the host, or of what a TCP client says first) how often it was asked, what it last received, and
//! when the other side went.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::ReceiverStream;

pub const TICK: Duration = Duration::from_millis(20);
/// One message of gRPC: not compressed, four bytes long.
pub const GRPC_TICK: &[u8] = b"\0\0\0\0\x04tick";

#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub requests: u32,
    /// The last time a request came, or anything behind its headers.
    pub last: Option<Instant>,
    pub gone: Option<Instant>,
    pub grpc_timeout: Option<String>,
}

type Book = Arc<Mutex<HashMap<String, Seen>>>;

#[derive(Clone)]
pub struct Ticker {
    pub http: u16,
    pub tcp: u16,
    book: Book,
}

impl Ticker {
    pub async fn start() -> Self {
        let book = Book::default();
        let (http, tcp) = (listen().await, listen().await);
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let ticker = Self { http: port(&http), tcp: port(&tcp), book: Arc::clone(&book) };
        tokio::spawn(accept(http, Arc::clone(&book), serve_http));
        tokio::spawn(accept(tcp, book, serve_tcp));
        ticker
    }

    pub fn seen(&self, name: &str) -> Seen {
        self.book.lock().unwrap().get(name).cloned().unwrap_or_default()
    }
}

/// Another upstream: answers every request with `ok`, at once. Its port.
pub async fn short_answers() -> u16 {
    let listener = listen().await;
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(accept(listener, Book::default(), |stream, _| async move {
        let (reader, mut writer) = stream.into_split();
        let mut lines = tokio::io::BufReader::new(reader).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if line.is_empty()
                && writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n").await.is_err()
            {
                return;
            }
        }
    }));
    port
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    book: Book,
    serve: impl Fn(TcpStream, Book) -> F,
) {
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        tokio::spawn(serve(stream, Arc::clone(&book)));
    }
}

fn note(book: &Book, name: &str, change: impl FnOnce(&mut Seen)) {
    change(book.lock().unwrap().entry(name.to_owned()).or_default());
}

fn received(book: &Book, name: &str) {
    note(book, name, |seen| seen.last = Some(Instant::now()));
}

fn requested(book: &Book, name: &str, grpc_timeout: Option<String>) {
    note(book, name, |seen| {
        seen.requests += 1;
        seen.grpc_timeout = grpc_timeout;
    });
    received(book, name);
}

async fn serve_http(stream: TcpStream, book: Book) {
    let mut first = [0; 3];
    while let Ok(1..=2) = stream.peek(&mut first).await {}
    if &first == b"PRI" { serve_grpc(stream, book).await } else { serve_http1(stream, book).await }
}

async fn serve_http1(mut stream: TcpStream, book: Book) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let name = head.to_lowercase().split("\r\nhost: ").nth(1).unwrap().lines().next().unwrap().to_owned();
    requested(&book, &name, None);
    let (begin, tick): (&str, &[u8]) = match path.as_str() {
        "/silent" => ("", b""),
        "/sse" => (
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
            b"c\r\ndata: tick\n\n\r\n",
        ),
        "/ws" => (
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
            b"\x81\x04tick",
        ),
        _ => ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"5\r\ntick\n\r\n"),
    };
    if stream.write_all(begin.as_bytes()).await.is_ok() {
        tick_and_read(stream, tick, &book, |_| Some(name.clone())).await;
    }
}

async fn serve_tcp(stream: TcpStream, book: Book) {
    // "name\n", over and over.
    let name = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.lines().next().map(str::to_owned)
    };
    tick_and_read(stream, b"tick\n", &book, name).await;
}

/// Sends ticks, from the first moment, and reads until the other side is gone.
async fn tick_and_read(stream: TcpStream, tick: &[u8], book: &Book, name: impl Fn(&[u8]) -> Option<String>) {
    let (mut reader, mut writer) = stream.into_split();
    let mut buffer = [0; 4096];
    let mut known = name(b"").filter(|name| !name.is_empty());
    let mut ticks = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            read = reader.read(&mut buffer) => match read {
                Ok(count @ 1..) => {
                    if known.is_none() {
                        known = name(&buffer[..count]);
                        note(book, known.as_deref().unwrap_or_default(), |seen| seen.requests += 1);
                    }
                    received(book, known.as_deref().unwrap_or_default());
                }
                _ => break,
            },
            _ = ticks.tick() => if writer.write_all(tick).await.is_err() { break },
        }
    }
    note(book, known.as_deref().unwrap_or_default(), |seen| seen.gone = Some(Instant::now()));
}

async fn serve_grpc(stream: TcpStream, book: Book) {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let book = Arc::clone(&book);
        async move { Ok::<_, Infallible>(answer_grpc(request, book)) }
    });
    // Envoy goes as it likes.
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

type Frames = ReceiverStream<Result<Frame<Bytes>, Infallible>>;

fn answer_grpc(request: hyper::Request<Incoming>, book: Book) -> hyper::Response<StreamBody<Frames>> {
    let name = request.uri().host().unwrap().to_owned();
    let request_path = request.uri().path().to_owned();
    let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let timeout = header("grpc-timeout");
    requested(&book, &name, timeout.clone());
    let (give, take) = tokio::sync::mpsc::channel(1);
    let (read_name, read_book) = (name.clone(), Arc::clone(&book));
    tokio::spawn(async move {
        let mut body = request.into_body();
        while let Some(Ok(_)) = body.frame().await {
            received(&read_book, &read_name);
        }
    });
    let is_idle = request_path == "/idle";
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(if is_idle { Duration::from_secs(3600) } else { TICK });
        // As every gRPC server, it ends a call by its deadline itself.
        let deadline = async {
            match timeout.and_then(|text| text.strip_suffix('m').and_then(|millis| millis.parse().ok())) {
                Some(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
                None => std::future::pending().await,
            }
        };
        let mut deadline = std::pin::pin!(deadline);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    if give.send(Ok(Frame::data(Bytes::from_static(GRPC_TICK)))).await.is_err() {
                        break;
                    }
                }
                () = &mut deadline => {
                    let status = [("grpc-status", "4")].map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap()));
                    let _ = give.send(Ok(Frame::trailers(status.into_iter().collect()))).await;
                    break;
                }
            }
        }
        note(&book, &name, |seen| seen.gone = Some(Instant::now()));
    });
    let mut response = hyper::Response::new(StreamBody::new(ReceiverStream::new(take)));
    response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    response
}
