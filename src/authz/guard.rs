//! Answers what never became a check.
//!
//! A message that is too large, or is no CheckRequest, fails in the gRPC library before [`super::Checker`] sees it, and
//! its error would obey Envoy's `failure_mode_allow`. So would the end of a stream on which a check panicked. Here every
//! such end becomes a denial like any other.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};

use envoy_types::pb::envoy::service::auth::v3::CheckResponse;
use envoy_types::pb::envoy::service::auth::v3::authorization_server::AuthorizationServer;
use futures_util::FutureExt;
use http_body_util::{BodyExt, Full};
use prost::Message;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;
use tonic::{Code, Status};

use super::{AuthorizationService, Checker};
use crate::decision::DenyReason;

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
            let Some(answered) = unless_it_panics(call).await else {
                return Ok(denied_for_a_panic(&checker));
            };
            let response = answered?;
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

/// None if it panicked; the hook that logs panics has said where. Nothing is used afterwards that it may have left half done
/// in a way that lets more through: see the locks of the replica.
async fn unless_it_panics<T>(future: impl Future<Output = T>) -> Option<T> {
    AssertUnwindSafe(future).catch_unwind().await.ok()
}

fn denied(checker: &Checker, status: &Status) -> http::Response<Body> {
    framed(&checker.deny_unasked(DenyReason::BadRequest, &format!("not a check: {}", status.message())))
}

fn denied_for_a_panic(checker: &Checker) -> http::Response<Body> {
    framed(&checker.deny_unasked(DenyReason::InternalError, "a check panicked"))
}

fn framed(response: &CheckResponse) -> http::Response<Body> {
    let message = response.encode_to_vec();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_no_answer() {
        assert_eq!(unless_it_panics(async { 7 }).await, Some(7));
        let panics = async {
            tokio::task::yield_now().await;
            panic!("a bug")
        };
        assert_eq!(unless_it_panics::<()>(panics).await, None);
    }
}
