//! An ext_authz server that answers as no server should, and remembers what Envoy sent. It is always healthy.
//!
//! Raw frames over HTTP/2: a gRPC library would refuse to send most of this.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::sync::Notify;
use tonic::codegen::Bytes;

#[derive(Debug, Clone)]
pub enum Behaviour {
    Answer(Box<CheckResponse>),
    /// A message of these bytes, and status 0.
    Message(Vec<u8>),
    /// Status 0, and no message.
    NoMessage,
    /// This gRPC status, and no message.
    Error(&'static str),
    /// A right answer under this HTTP status and content type.
    Http(u16, &'static str),
    /// A message that is longer than it says, or shorter.
    Frame(Vec<u8>),
    /// Never an answer.
    Silent,
    /// A right answer, but only after this.
    Late(Duration),
    /// The end of the stream, as when the task that answers dies.
    Reset,
    /// The end of the connection, as when the process dies.
    Close,
}

struct Shared {
    behaviour: Mutex<Behaviour>,
    requests: Mutex<Vec<CheckRequest>>,
    close: Notify,
}

pub struct FakeChecker {
    pub address: String,
    shared: Arc<Shared>,
    _runtime: tokio::runtime::Runtime,
}

type Body = BoxBody<Bytes, Infallible>;
type Reply = Result<Response<Body>, &'static str>;

impl FakeChecker {
    /// Allows everything until told otherwise.
    pub fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            behaviour: Mutex::new(Behaviour::Answer(Box::new(allow()))),
            requests: Mutex::new(Vec::new()),
            close: Notify::new(),
        });
        let serving = Arc::clone(&shared);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&serving);
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(|request| answer(Arc::clone(&shared), request));
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    tokio::select! {
                        _ = server.serve_connection(TokioIo::new(stream), service) => {}
                        () = shared.close.notified() => {}
                    }
                });
            }
        });
        Self { address, shared, _runtime: runtime }
    }

    pub fn set(&self, behaviour: Behaviour) {
        *self.shared.behaviour.lock().unwrap() = behaviour;
    }

    pub fn answer(&self, response: CheckResponse) {
        self.set(Behaviour::Answer(Box::new(response)));
    }

    /// The checks that came since the last call.
    pub fn take(&self) -> Vec<CheckRequest> {
        std::mem::take(&mut self.shared.requests.lock().unwrap())
    }
}

/// An allow without anything else.
pub fn allow() -> CheckResponse {
    use envoy_types::pb::google::rpc::Status;
    CheckResponse { status: Some(Status::default()), ..CheckResponse::default() }
}

fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Pin<Box<dyn Future<Output = Reply> + Send>> {
    Box::pin(async move {
        let is_check = request.uri().path().ends_with("Authorization/Check");
        let body = request.into_body().collect().await.map_err(|_| "the request ended")?.to_bytes();
        if !is_check {
            // `HealthCheckResponse { status: SERVING }`.
            return Ok(grpc(Some(&[0x08, 0x01])));
        }
        let check = CheckRequest::decode(&body[5..]).map_err(|_| "not a CheckRequest")?;
        shared.requests.lock().unwrap().push(check);
        let behaviour = shared.behaviour.lock().unwrap().clone();
        match behaviour {
            Behaviour::Answer(response) => Ok(grpc(Some(&response.encode_to_vec()))),
            Behaviour::Message(bytes) => Ok(grpc(Some(&bytes))),
            Behaviour::NoMessage => Ok(grpc(None)),
            Behaviour::Error(code) => {
                let builder = Response::builder().header("content-type", "application/grpc");
                Ok(builder.header("grpc-status", code).body(Full::default().boxed()).unwrap())
            }
            Behaviour::Http(status, content_type) => {
                let mut response = grpc(Some(&allow().encode_to_vec()));
                *response.status_mut() = status.try_into().unwrap();
                response.headers_mut().insert("content-type", content_type.try_into().unwrap());
                Ok(response)
            }
            Behaviour::Frame(bytes) => Ok(framed(bytes)),
            Behaviour::Silent => std::future::pending().await,
            Behaviour::Late(after) => {
                tokio::time::sleep(after).await;
                Ok(grpc(Some(&allow().encode_to_vec())))
            }
            Behaviour::Reset => Err("reset"),
            Behaviour::Close => {
                shared.close.notify_waiters();
                std::future::pending().await
            }
        }
    })
}

fn grpc(message: Option<&[u8]>) -> Response<Body> {
    let Some(message) = message else { return framed(Vec::new()) };
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    framed([&[0], &length[..], message].concat())
}

/// The bytes, and trailers that say that all went well.
fn framed(bytes: Vec<u8>) -> Response<Body> {
    let trailers = hyper::HeaderMap::from_iter([(
        "grpc-status".parse::<hyper::header::HeaderName>().unwrap(),
        "0".parse().unwrap(),
    )]);
    let body = Full::new(Bytes::from(bytes)).with_trailers(async { Some(Ok(trailers)) });
    Response::builder().header("content-type", "application/grpc").body(body.boxed()).unwrap()
}
