//! Answers what never became a check.
//!
//! A message that is too large, or is no CheckRequest, fails in the gRPC library before [`super::Checker`] sees it, and
//! its error would obey Envoy's `failure_mode_allow`. Here every such error becomes a denial like any other.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use envoy_types::pb::envoy::service::auth::v3::authorization_server::AuthorizationServer;
use http_body_util::{BodyExt, Full};
use prost::Message;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;
use tonic::{Code, Status};

use super::{AuthorizationService, Checker};

/// gRPC's header for the outcome of a call. Among the first headers it means that nothing follows but the error.
const GRPC_STATUS: &str = "grpc-status";
/// A gRPC message begins with one byte for compression and four for its length.
const FRAME_HEADER_BYTES: usize = 5;

/// The ext_authz service, none of whose checks ends in a gRPC error.
#[derive(Clone)]
pub struct GuardedService {
    inner: AuthorizationServer<AuthorizationService>,
    checker: Arc<Checker>,
}

impl GuardedService {
    #[must_use]
    pub fn new(checker: Arc<Checker>, max_message_bytes: usize) -> Self {
        let inner = AuthorizationServer::new(AuthorizationService(Arc::clone(&checker)))
            .max_decoding_message_size(max_message_bytes);
        Self { inner, checker }
    }
}

impl NamedService for GuardedService {
    const NAME: &'static str = <AuthorizationServer<AuthorizationService> as NamedService>::NAME;
}

impl Service<http::Request<Body>> for GuardedService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let checker = Arc::clone(&self.checker);
        let call = self.inner.call(request);
        Box::pin(async move {
            let response = call.await?;
            Ok(match Status::from_header_map(response.headers()) {
                // A method that this service does not have was not a check.
                Some(status) if !matches!(status.code(), Code::Ok | Code::Unimplemented) => {
                    denied(&checker, &status)
                }
                _ => response,
            })
        })
    }
}

fn denied(checker: &Checker, status: &Status) -> http::Response<Body> {
    let message = checker.deny_unreadable(status.message()).encode_to_vec();
    let mut frame = Vec::with_capacity(FRAME_HEADER_BYTES + message.len());
    frame.push(0);
    // Our own denial is a few hundred bytes.
    frame.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(message);
    let trailers = http::HeaderMap::from_iter([(
        http::HeaderName::from_static(GRPC_STATUS),
        http::HeaderValue::from_static("0"),
    )]);
    let body = Full::new(tonic::codegen::Bytes::from(frame)).with_trailers(async { Some(Ok(trailers)) });
    let mut response = http::Response::new(Body::new(body));
    let content_type = http::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
    response
}
