//! One request for a bundle, as OPA makes it: conditional, with a preference, redirected at most so often, and within
//! limits of time and size. Secrets go to the configured server and to no other.

use std::error::Error as _;
use std::time::Duration;

use http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH,
    LOCATION, USER_AGENT,
};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Buf, Incoming};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::TokioExecutor;
use tokio::time::{Instant, timeout, timeout_at};
use url::Url;

use super::BundleError;
use super::config::{Credentials, Service, Token};

/// As Go's client, and so OPA's.
const MAX_REDIRECTS: usize = 10;
/// Silence within a body, after which nothing more is expected of it.
const BODY_IDLE_LIMIT: Duration = Duration::from_secs(30);
/// One body, however steadily it drips.
const BODY_LIMIT: Duration = Duration::from_secs(600);
/// OPA takes this as a server's word that it can wait for news.
const LONG_POLL_TYPE: &str = "application/vnd.openpolicyagent.bundles";
const PREFER: HeaderName = HeaderName::from_static("prefer");
const PRODUCT: &str = concat!("daypass/", env!("CARGO_PKG_VERSION"));

/// What to ask for.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    pub service: &'a Service,
    pub url: &'a Url,
    /// Of the bundle in use.
    pub etag: Option<&'a str>,
    /// How long the server may wait for news.
    pub wait: Option<Duration>,
    /// Bytes of a body.
    pub size_limit: u64,
}

#[derive(Debug)]
pub enum Answer {
    NotModified,
    Bundle(Download),
}

#[derive(Debug)]
pub struct Download {
    pub archive: Vec<u8>,
    pub etag: Option<String>,
    /// Whether the server can wait for news.
    pub can_wait: bool,
    pub content_type: Option<String>,
}

/// # Errors
/// There is no bundle to be had: nobody answers, or not in time, or with something else.
pub async fn fetch(query: Query<'_>) -> Result<Answer, BundleError> {
    let limit = query.service.header_timeout.saturating_add(query.wait.unwrap_or_default());
    let response = timeout(limit, follow(query))
        .await
        .map_err(|_| BundleError::TimedOut { what: "the answer's header", limit })??;
    let header = |name: HeaderName| {
        response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    match response.status() {
        StatusCode::OK => {
            let (etag, content_type) = (header(ETAG).filter(|etag| !etag.is_empty()), header(CONTENT_TYPE));
            let can_wait = content_type.as_deref() == Some(LONG_POLL_TYPE);
            let archive = body(response, query.size_limit).await?;
            Ok(Answer::Bundle(Download { archive, etag, can_wait, content_type }))
        }
        // Only an answer to a question that was asked.
        StatusCode::NOT_MODIFIED if query.etag.is_some() => Ok(Answer::NotModified),
        status => Err(BundleError::Status(status)),
    }
}

async fn follow(query: Query<'_>) -> Result<Response<Incoming>, BundleError> {
    let mut url = query.url.clone();
    for _ in 0..=MAX_REDIRECTS {
        let is_home = url.origin() == query.url.origin();
        let response = send(query, &url, is_home).await?;
        let is_redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
        if !is_redirect {
            return Ok(response);
        }
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| BundleError::Redirect("a redirect to nowhere".to_owned()))?;
        let next = url
            .join(location)
            .map_err(|error| BundleError::Redirect(format!("a redirect to what is no URL: {error}")))?;
        if !matches!(next.scheme(), "http" | "https") || (url.scheme() == "https" && next.scheme() == "http")
        {
            return Err(BundleError::Redirect(format!(
                "a redirect from {} to {}",
                url.scheme(),
                next.scheme()
            )));
        }
        url = next;
    }
    Err(BundleError::Redirect(format!("more than {MAX_REDIRECTS} redirects")))
}

async fn send(query: Query<'_>, url: &Url, is_home: bool) -> Result<Response<Incoming>, BundleError> {
    let headers = headers(query, is_home).await?;
    let tls = if is_home { query.service.tls.clone() } else { query.service.tls.anonymous() };
    let config = tokio::task::spawn_blocking(move || tls.client_config())
        .await
        .map_err(|error| BundleError::File(error.to_string()))??;
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
    let mut request = Request::get(address.as_str())
        .body(Empty::<&'static [u8]>::new())
        .map_err(|error| BundleError::Redirect(format!("not a URL to ask: {error}")))?;
    *request.headers_mut() = headers;
    client.request(request).await.map_err(|error| unreachable(&error))
}

async fn headers(query: Query<'_>, is_home: bool) -> Result<HeaderMap, BundleError> {
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, HeaderValue::from_static(PRODUCT));
    if is_home {
        for (name, value) in &query.service.headers {
            headers.insert(name, value.clone());
        }
        if let Some(value) = authorization(&query.service.credentials).await? {
            headers.insert(AUTHORIZATION, value);
        }
    }
    // OPA says `snapshot,delta`.
    let mut prefer = "modes=snapshot".to_owned();
    if let Some(wait) = query.wait {
        prefer = format!("{prefer};wait={}", wait.as_secs());
    }
    headers
        .insert(PREFER, HeaderValue::from_str(&prefer).unwrap_or(HeaderValue::from_static("modes=snapshot")));
    if let Some(etag) = query.etag.and_then(|etag| HeaderValue::from_str(etag).ok()) {
        headers.insert(IF_NONE_MATCH, etag);
    }
    Ok(headers)
}

async fn authorization(credentials: &Credentials) -> Result<Option<HeaderValue>, BundleError> {
    let text = match credentials {
        Credentials::None => return Ok(None),
        Credentials::Basic(value) => format!("Basic {}", value.reveal()),
        Credentials::Bearer { scheme, token: Token::Text(token) } => format!("{scheme} {}", token.reveal()),
        Credentials::Bearer { scheme, token: Token::File(path) } => {
            let token = tokio::fs::read_to_string(path)
                .await
                .map_err(|error| BundleError::File(format!("{}: {error}", path.display())))?;
            format!("{scheme} {}", token.trim())
        }
    };
    let mut value = HeaderValue::from_str(&text)
        .map_err(|_| BundleError::File("the token has characters that no header may have".to_owned()))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// The library's own text is "client error (Connect)"; what helps is at the bottom.
fn unreachable(error: &Error) -> BundleError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    BundleError::Unreachable(text)
}

async fn body<B>(response: Response<B>, limit: u64) -> Result<Vec<u8>, BundleError>
where
    B: Body<Error: std::fmt::Display> + Unpin,
{
    let too_large =
        || BundleError::TooLarge(format!("the archive exceeds size_limit_bytes, which is {limit}"));
    let announced = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if announced.and_then(|text| text.parse::<u64>().ok()).is_some_and(|announced| announced > limit) {
        return Err(too_large());
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
            BundleError::TimedOut { what, limit }
        })?;
        let Some(frame) = frame else { return Ok(bytes) };
        let frame = frame.map_err(|error| BundleError::CutOff(error.to_string()))?;
        let Ok(mut data) = frame.into_data() else { continue };
        if bytes.len() as u64 + data.remaining() as u64 > limit {
            return Err(too_large());
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
    async fn dripping(pause: Duration, limit: u64) -> BundleError {
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
            BundleError::TimedOut { what: "the next part of the body", limit: BODY_IDLE_LIMIT }
        );
        let slow = dripping(Duration::from_secs(20), 1000).await;
        assert_eq!(slow, BundleError::TimedOut { what: "the body", limit: BODY_LIMIT });
        assert_eq!(dripping(Duration::from_secs(20), 10).await.code(), "too_large");
    }
}
