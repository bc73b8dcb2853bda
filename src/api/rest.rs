//! The API by HTTP and JSON, on the listener of gRPC and over the same services: a request becomes the gRPC call that its
//! `google.api.http` option names, and the answer becomes JSON. All of it follows from the descriptors of `proto/`, so there
//! is one contract.
//!
//! Must never decide anything: who may call is the business of those around and below. Headers and extensions of a
//! request, which say who calls, go on as they came.

mod frames;
mod json;
mod message;
mod openapi;
mod refusal;
mod render;
mod routes;
mod scalar;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use percent_encoding::percent_decode_str;
use prost::bytes::Bytes;
use prost_reflect::{DescriptorPool, DynamicMessage};
use tonic::codegen::Service;
use tonic::{Code, Status};

pub use routes::ContractError;

use frames::Frames;
use message::{Given, Invalid};
use refusal::{JSON, Refusal, pass_metadata, response, status_response};
use render::rendered;
use routes::{Found, Route, Routes};
use stream::{Form, Messages};

/// As by gRPC.
const MAX_BODY_BYTES: usize = super::grpc::MAX_MESSAGE_BYTES;
/// For a body of this size over the slowest line that is of use.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
const OPENAPI_PATH: &str = "/v1/openapi.json";
const LAST_EVENT_ID: &str = "last-event-id";
/// Headers that speak of one connection or of the body that is replaced, not of the call.
const OF_ONE_HOP: [&str; 15] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    LAST_EVENT_ID,
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What the descriptors say, read once.
#[derive(Debug)]
struct Contract {
    routes: Routes,
    openapi: Bytes,
}

/// The layer: wraps the router of the gRPC services.
#[derive(Debug, Clone)]
pub struct Rest(Arc<Contract>);

impl Rest {
    /// # Errors
    /// The descriptors of this build are not understood.
    pub fn new() -> Result<Self, ContractError> {
        let pool = DescriptorPool::decode(super::v1::DESCRIPTORS)?;
        let routes = Routes::read(&pool)?;
        let openapi = openapi::document(&routes).to_string().into();
        Ok(Self(Arc::new(Contract { routes, openapi })))
    }

    /// The same services, and before them HTTP and JSON for whatever is not gRPC.
    #[must_use]
    pub fn over(self, services: tonic::service::Routes) -> tonic::service::Routes {
        let services = services.into_axum_router();
        let router = axum::Router::new().fallback(move |request: Request| {
            let (contract, mut services) = (Arc::clone(&self.0), services.clone());
            async move {
                if is_grpc(request.headers()) {
                    return services.call(request).await.into_response();
                }
                let answer = contract.answer(request, services).await;
                answer.unwrap_or_else(|refusal| refusal.response())
            }
        });
        router.into()
    }
}

/// Whether a request speaks gRPC; an error for any other is JSON, as [`refused`] makes it.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    content_type.is_some_and(|value| value.starts_with(b"application/grpc"))
}

/// A gRPC status in the form that the caller of a request reads, for layers around this one.
#[must_use]
pub fn refused(request: &HeaderMap, status: Status) -> Response {
    if is_grpc(request) { status.into_http::<Body>() } else { status_response(&status) }
}

impl Contract {
    async fn answer(&self, request: Request, services: axum::Router) -> Result<Response, Refusal> {
        let (parts, body) = request.into_parts();
        if parts.uri.path() == OPENAPI_PATH {
            return self.describe(&parts.method);
        }
        if parts.method == Method::OPTIONS {
            return self.options(parts.uri.path());
        }
        let Found { route, captured } = self.routes.find(&parts.method, parts.uri.path())?;
        let mut given = Given::new(&route.input);
        for (field, text) in &captured {
            given.set(field, text)?;
        }
        given.set_query(query(parts.uri.query().unwrap_or_default())?.into_iter(), route.has_body)?;
        if let (Some((_, after)), Some(last)) = (route.resumes(), parts.headers.get(LAST_EVENT_ID)) {
            let last = last.to_str().map_err(|_| Invalid::new("`Last-Event-ID` is not a number"))?;
            given.set(&after, last)?;
        }
        let message = if route.has_body {
            given.with_body(&json_body(&parts.headers, body).await?)?
        } else {
            no_body(body).await?;
            given.without_body()?
        };
        let form = Form::of(&parts.headers);
        let answer = call(services, route, parts, &message).await;
        Ok(if route.is_stream() { streamed(route, form, answer) } else { whole(route, answer).await })
    }

    fn describe(&self, verb: &Method) -> Result<Response, Refusal> {
        let allow = routes::allowed([&Method::GET].into_iter());
        match *verb {
            Method::GET | Method::HEAD => Ok(response(StatusCode::OK, JSON, self.openapi.clone())),
            Method::OPTIONS => Ok(no_content(&allow)),
            _ => Err(Refusal::Method(allow)),
        }
    }

    fn options(&self, path: &str) -> Result<Response, Refusal> {
        match self.routes.find(&Method::OPTIONS, path) {
            Err(Refusal::Method(allow)) => Ok(no_content(&allow)),
            Err(refusal) => Err(refusal),
            Ok(_) => Ok(no_content("OPTIONS")),
        }
    }
}

fn no_content(allow: &str) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    if let Ok(allow) = HeaderValue::from_str(allow) {
        response.headers_mut().insert(ALLOW, allow);
    }
    response
}

/// The parameters of a query, decoded.
fn query(text: &str) -> Result<Vec<(String, String)>, Invalid> {
    let decoded = |text: &str| {
        let text = text.replace('+', " ");
        if !routes::is_encoded(&text) {
            return Err(Invalid::new("the query is not percent-encoded UTF-8"));
        }
        Ok(percent_decode_str(&text).decode_utf8_lossy().into_owned())
    };
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decoded(name)?, decoded(value)?))
    });
    pairs.collect()
}

/// A body may be left out where nothing in it must be there.
async fn json_body(headers: &HeaderMap, body: Body) -> Result<Bytes, Refusal> {
    let body = collected(body, MAX_BODY_BYTES).await?;
    if body.is_empty() {
        return Ok(Bytes::from_static(b"{}"));
    }
    if headers.contains_key(CONTENT_ENCODING) || !is_json(headers) {
        return Err(Refusal::ContentType);
    }
    Ok(body)
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let Ok(value) = value.to_str() else { return false };
    let mut parts = value.split(';').map(|part| part.trim().to_ascii_lowercase());
    let is_json = parts.next().is_some_and(|name| name == "application/json");
    is_json
        && parts.all(|parameter| match parameter.split_once('=') {
            Some(("charset", charset)) => charset.trim_matches('"') == "utf-8",
            _ => true,
        })
}

async fn no_body(body: Body) -> Result<(), Refusal> {
    match collected(body, 0).await {
        Err(Refusal::TooLarge) => Err(Invalid::new("this call takes no body").into()),
        other => other.map(|_| ()),
    }
}

async fn collected(body: Body, most: usize) -> Result<Bytes, Refusal> {
    let collect = Limited::new(body, most).collect();
    match tokio::time::timeout(BODY_TIMEOUT, collect).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::TooLarge),
        Ok(Err(error)) => Err(broken(&*error)),
        Err(_) => Err(Refusal::TooSlow),
    }
}

/// Whoever hands bodies on has limits of its own, and says so with a status.
fn broken(error: &(dyn std::error::Error + 'static)) -> Refusal {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    let status = causes.find_map(|error| error.downcast_ref::<Status>());
    match status.map(Status::code) {
        Some(Code::DeadlineExceeded) => Refusal::TooSlow,
        Some(Code::OutOfRange) => Refusal::TooLarge,
        Some(Code::ResourceExhausted) => Refusal::Crowded,
        _ => Refusal::Broken,
    }
}

/// The gRPC call, as the caller of the request.
async fn call(mut services: axum::Router, route: &Route, parts: Parts, message: &DynamicMessage) -> Response {
    let mut request = Request::new(Body::from(frames::framed(message)));
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    // Of letters, dots and slashes: a path of the descriptors always is one.
    *request.uri_mut() = http::Uri::try_from(route.grpc_path.as_str()).unwrap_or_default();
    *request.extensions_mut() = parts.extensions;
    let is_of_the_call =
        |name: &HeaderName| !OF_ONE_HOP.contains(&name.as_str()) && !name.as_str().starts_with("grpc-");
    let headers = request.headers_mut();
    for (name, value) in parts.headers.iter().filter(|(name, _)| is_of_the_call(name)) {
        headers.append(name, value.clone());
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(http::header::TE, HeaderValue::from_static("trailers"));
    match services.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// The failure of a call that ended before it said anything.
fn early_end(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers).filter(|status| status.code() != Code::Ok)
}

async fn whole(route: &Route, answer: Response) -> Response {
    let (parts, body) = answer.into_parts();
    if let Some(status) = early_end(&parts.headers) {
        return status_response(&status);
    }
    // Not bounded: the message is in our memory already, whole.
    let Ok(collected) = body.collect().await else {
        return status_response(&Status::internal("the answer broke off"));
    };
    let ended = collected.trailers().and_then(Status::from_header_map);
    if let Some(status) = ended.filter(|status| status.code() != Code::Ok) {
        return status_response(&status);
    }
    let mut frames = Frames::default();
    frames.push(&collected.to_bytes());
    let Ok(Some(message)) = frames.next() else {
        return status_response(&Status::internal("the answer holds no message"));
    };
    match rendered(&route.output, message) {
        Ok((_, json)) => {
            let mut response = response(StatusCode::OK, JSON, json);
            pass_metadata(&parts.headers, response.headers_mut());
            response
        }
        Err(problem) => {
            tracing::error!(method = route.grpc_path, "an answer cannot be told: {problem}");
            status_response(&Status::internal(format!("the answer cannot be told: {problem}")))
        }
    }
}

fn streamed(route: &Route, form: Form, answer: Response) -> Response {
    let (parts, body) = answer.into_parts();
    if let Some(status) = early_end(&parts.headers) {
        return status_response(&status);
    }
    let number = route.resumes().map(|(number, _)| number);
    let messages = Messages::new(body, form, route.output.clone(), number);
    let mut response = response(StatusCode::OK, form.content_type(), Body::new(messages));
    pass_metadata(&parts.headers, response.headers_mut());
    response
}
