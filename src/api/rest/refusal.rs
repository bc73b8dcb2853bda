//! What HTTP callers are told when there is no answer: one body for all errors, and which status means what.
//!
//! Must never make a 5xx of something that a caller sent.

use axum::body::Body;
use axum::response::Response;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, StatusCode};
use thiserror::Error;
use tonic::{Code, Status};

use super::message::Invalid;

pub const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Answers are about who may reach what at this moment.
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const NO_SNIFFING: HeaderValue = HeaderValue::from_static("nosniff");

/// Why a request did not become a call.
#[derive(Debug, Error)]
pub enum Refusal {
    #[error("there is nothing at this path; /v1/openapi.json lists what there is")]
    NoSuchPath,
    #[error("this path takes {}", .0)]
    Method(String),
    #[error("the path is not percent-encoded UTF-8")]
    Path,
    #[error("the body must be `content-type: application/json`, in UTF-8 and not compressed")]
    ContentType,
    #[error("the body is larger than {} bytes", super::MAX_BODY_BYTES)]
    TooLarge,
    #[error("the body did not arrive within {} seconds", super::BODY_TIMEOUT.as_secs())]
    TooSlow,
    #[error("too many bodies are arriving at this server; try again")]
    Crowded,
    #[error("the body broke off")]
    Broken,
    #[error("{0}")]
    Invalid(#[from] Invalid),
}

impl Refusal {
    fn status(&self) -> (StatusCode, Code) {
        match self {
            Self::NoSuchPath => (StatusCode::NOT_FOUND, Code::NotFound),
            Self::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, Code::Unimplemented),
            Self::ContentType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::InvalidArgument),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, Code::InvalidArgument),
            Self::Crowded => (StatusCode::TOO_MANY_REQUESTS, Code::ResourceExhausted),
            Self::TooSlow => (StatusCode::REQUEST_TIMEOUT, Code::DeadlineExceeded),
            Self::Path | Self::Broken | Self::Invalid(_) => (StatusCode::BAD_REQUEST, Code::InvalidArgument),
        }
    }

    pub fn response(&self) -> Response {
        let (status, code) = self.status();
        let mut response = response(status, JSON, error_body(status, code, &self.to_string()));
        if let Self::Method(allow) = self
            && let Ok(allow) = HeaderValue::from_str(allow)
        {
            response.headers_mut().insert(ALLOW, allow);
        }
        response
    }
}

/// A gRPC status as HTTP, with its metadata.
pub fn status_response(status: &Status) -> Response {
    let code = http_status(status.code());
    let mut response = response(code, JSON, error_body(code, status.code(), status.message()));
    pass_metadata(status.metadata().as_ref(), response.headers_mut());
    if code == StatusCode::UNAUTHORIZED {
        let headers = response.headers_mut();
        headers.entry(WWW_AUTHENTICATE).or_insert(HeaderValue::from_static("Bearer"));
    }
    response
}

/// The JSON of a failure, for the end of a stream.
pub fn status_body(status: &Status) -> String {
    error_body(http_status(status.code()), status.code(), status.message())
}

pub fn response(status: StatusCode, content_type: HeaderValue, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(X_CONTENT_TYPE_OPTIONS, NO_SNIFFING);
    response
}

/// What a service says beside its answer; without what belongs to gRPC itself.
pub fn pass_metadata(from: &HeaderMap, to: &mut HeaderMap) {
    for (name, value) in from {
        let is_grpc = name.as_str().starts_with("grpc-");
        if !is_grpc && !to.contains_key(name) && !super::OF_ONE_HOP.contains(&name.as_str()) {
            to.insert(name, value.clone());
        }
    }
}

fn error_body(status: StatusCode, code: Code, message: &str) -> String {
    // What the router of the services says of a method that it has not got.
    let message = if message.is_empty() { code.description() } else { message };
    let error = serde_json::json!({
        "error": {"code": status.as_u16(), "status": name(code), "message": message},
    });
    error.to_string()
}

fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        // "Client closed request"; nobody but a log reads it.
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
    }
}

fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
