//! One request for a bundle, as OPA makes it: conditional, with a preference, redirected at most so often, and within
//! limits of time and size. Secrets go to the configured server and to no other.

use std::time::Duration;

use http::header::{
    AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, LOCATION,
};
use http::{Response, StatusCode};
use tokio::time::timeout;
use url::Url;

use super::BundleError;
use super::config::{Credentials, Service, Token};
use crate::fetch::{self, FetchError, Incoming};

/// As Go's client, and so OPA's.
const MAX_REDIRECTS: usize = 10;
/// OPA takes this as a server's word that it can wait for news.
const LONG_POLL_TYPE: &str = "application/vnd.openpolicyagent.bundles";
const PREFER: HeaderName = HeaderName::from_static("prefer");

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
            let archive = fetch::body(response, query.size_limit).await.map_err(|error| match error {
                FetchError::TooLarge(limit) => {
                    BundleError::TooLarge(format!("the archive exceeds size_limit_bytes, which is {limit}"))
                }
                error => error.into(),
            })?;
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
    Ok(fetch::get(url, headers, tls).await?)
}

async fn headers(query: Query<'_>, is_home: bool) -> Result<HeaderMap, BundleError> {
    let mut headers = HeaderMap::new();
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
