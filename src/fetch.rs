//! One request and its answer, within limits of time and size: what bundles and key sets are fetched with, and webhooks
//! are called. Follows no redirect by itself, so that no secret goes to a host that nobody configured.

pub mod tls;

use std::error::Error as _;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, USER_AGENT};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Buf, Bytes};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::TokioExecutor;
use thiserror::Error;
use tokio::time::{Instant, timeout_at};
use url::Url;

use tls::Tls;

pub use hyper::body::Incoming;

/// Silence within a body, after which nothing more is expected of it.
pub const BODY_IDLE_LIMIT: Duration = Duration::from_secs(30);
/// One body, however steadily it drips.
pub const BODY_LIMIT: Duration = Duration::from_secs(600);
const PRODUCT: &str = concat!("daypass/", env!("CARGO_PKG_VERSION"));

/// Shown to people: never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FetchError {
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    #[error("not a URL to ask: {0}")]
    NotAUrl(String),
    #[error("{what} took longer than {limit:?}")]
    TimedOut { what: &'static str, limit: Duration },
    #[error("the body ended before its end: {0}")]
    CutOff(String),
    #[error("the body is larger than {0} bytes")]
    TooLarge(u64),
    /// A key or certificate that the configuration names.
    #[error("{0}")]
    File(String),
}

/// The answer, whatever its status. Certificates are read anew for each.
///
/// # Errors
/// Nobody answers, or the TLS files cannot be used.
pub async fn get(url: &Url, headers: HeaderMap, tls: Tls) -> Result<Response<Incoming>, FetchError> {
    ask(Method::GET, url, headers, Vec::new(), tls).await
}

/// Likewise, with something to say.
///
/// # Errors
/// As [`get`].
pub async fn post(
    url: &Url,
    headers: HeaderMap,
    body: Vec<u8>,
    tls: Tls,
) -> Result<Response<Incoming>, FetchError> {
    ask(Method::POST, url, headers, body, tls).await
}

async fn ask(
    method: Method,
    url: &Url,
    mut headers: HeaderMap,
    body: Vec<u8>,
    tls: Tls,
) -> Result<Response<Incoming>, FetchError> {
    let config = tokio::task::spawn_blocking(move || tls.client_config())
        .await
        .map_err(|error| FetchError::File(error.to_string()))??;
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http()
        .enable_http1()
        .enable_http2()
        .wrap_connector(connector);
    // One request each: the next may come an hour later, and with other certificates.
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
    let mut address = url.clone();
    address.set_fragment(None);
    let mut request = Request::builder()
        .method(method)
        .uri(address.as_str())
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| FetchError::NotAUrl(error.to_string()))?;
    headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(PRODUCT));
    *request.headers_mut() = headers;
    client.request(request).await.map_err(|error| unreachable(&error))
}

/// The library's own text is "client error (Connect)"; what helps is at the bottom.
fn unreachable(error: &Error) -> FetchError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    FetchError::Unreachable(text)
}

/// A whole body of at most so many bytes.
///
/// # Errors
/// It is longer, comes too slowly, or ends in the middle.
pub async fn body<B>(response: Response<B>, limit: u64) -> Result<Vec<u8>, FetchError>
where
    B: Body<Error: std::fmt::Display> + Unpin,
{
    let announced = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if announced.and_then(|text| text.parse::<u64>().ok()).is_some_and(|announced| announced > limit) {
        return Err(FetchError::TooLarge(limit));
    }
    let end = Instant::now() + BODY_LIMIT;
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    loop {
        let idle_end = (Instant::now() + BODY_IDLE_LIMIT).min(end);
        let frame = timeout_at(idle_end, body.frame()).await.map_err(|_| {
            let is_whole = Instant::now() >= end;
            let (what, limit) = if is_whole {
                ("the body", BODY_LIMIT)
            } else {
                ("the next part of the body", BODY_IDLE_LIMIT)
            };
            FetchError::TimedOut { what, limit }
        })?;
        let Some(frame) = frame else { return Ok(bytes) };
        let frame = frame.map_err(|error| FetchError::CutOff(error.to_string()))?;
        let Ok(mut data) = frame.into_data() else { continue };
        if bytes.len() as u64 + data.remaining() as u64 > limit {
            return Err(FetchError::TooLarge(limit));
        }
        while data.has_remaining() {
            let part = data.chunk();
            bytes.extend_from_slice(part);
            let length = part.len();
            data.advance(length);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use tokio_stream::StreamExt;

    use super::*;

    /// Bytes that come one by one, so far apart, and never end.
    async fn dripping(pause: Duration, limit: u64) -> FetchError {
        let drops =
            tokio_stream::iter(std::iter::repeat_with(|| Ok::<_, Infallible>(Frame::data(&b"x"[..]))));
        let drops = Box::pin(drops.throttle(pause));
        body(Response::new(StreamBody::new(drops)), limit).await.unwrap_err()
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_have_limits_of_time_and_size() {
        let silent = dripping(Duration::from_secs(3600), 1000).await;
        assert_eq!(
            silent,
            FetchError::TimedOut { what: "the next part of the body", limit: BODY_IDLE_LIMIT }
        );
        let slow = dripping(Duration::from_secs(20), 1000).await;
        assert_eq!(slow, FetchError::TimedOut { what: "the body", limit: BODY_LIMIT });
        assert_eq!(dripping(Duration::from_secs(20), 10).await, FetchError::TooLarge(10));
    }
}
