//! A CheckRequest, read once: what OPA-Envoy parses out of it, and what grants are compared with.

use std::net::IpAddr;

use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use thiserror::Error;

use super::body::{self, Body, BodyError};
use super::go::{self, UrlError, Values};
use super::headers::Headers;
use crate::permission::Target;

/// Why a request cannot be read. The text goes to the client, as OPA-Envoy's does.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RequestError {
    #[error(transparent)]
    Url(#[from] UrlError),
    #[error(transparent)]
    Body(#[from] BodyError),
}

/// Whether bodies are looked into (`skip-request-body-parse`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyParsing {
    On,
    Skip,
}

#[derive(Debug)]
pub struct Parsed<'a> {
    pub attributes: Option<&'a AttributeContext>,
    pub http: Option<&'a HttpRequest>,
    pub headers: Headers<'a>,
    /// `parsed_path`.
    pub path: Vec<String>,
    /// `parsed_query`.
    pub query: Values,
    /// `None` if bodies are not parsed: then `input` has neither `parsed_body` nor `truncated_body`.
    pub body: Option<Body>,
    pub target: Target<'a>,
}

/// # Errors
/// Path, query or body cannot be read. Such a request is answered 400, whatever policy would say.
pub fn parse(request: &CheckRequest, body_parsing: BodyParsing) -> Result<Parsed<'_>, RequestError> {
    let attributes = request.attributes.as_ref();
    let http = attributes.and_then(|a| a.request.as_ref()).and_then(|request| request.http.as_ref());
    let headers = http.map_or_else(Headers::none, Headers::of);
    let (path, query) = path_and_query(http.map_or("", |http| http.path.as_str()))?;
    let body = match (body_parsing, http) {
        (BodyParsing::Skip, _) => None,
        (BodyParsing::On, None) => Some(Body::None),
        (BodyParsing::On, Some(http)) => Some(body::parse(http, &headers)?),
    };
    let target = match http {
        Some(http) => Target::http(&http.host, &http.method, &http.path, headers.get("content-type")),
        None => {
            Target::tcp(attributes.and_then(|a| a.tls_session.as_ref()).map(|session| session.sni.as_str()))
        }
    };
    let target = target.with_source(attributes.and_then(|a| a.source.as_ref()).and_then(ip_address));
    Ok(Parsed { attributes, http, headers, path, query, body, target })
}

/// Cut at the first `?`, decoded before it is split, leading slashes gone. Never through a URL parser: to one,
/// `//admin/x` is a host with a path (CVE-2026-26205).
fn path_and_query(text: &str) -> Result<(Vec<String>, Values), UrlError> {
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let path = go::path_unescape(path)?;
    let segments = path.trim_start_matches('/').split('/').map(str::to_owned).collect();
    Ok((segments, go::parse_query(query)?))
}

/// As [`ip_address`], for a request that could not be parsed.
#[must_use]
pub fn source_address(request: &CheckRequest) -> Option<IpAddr> {
    request.attributes.as_ref()?.source.as_ref().and_then(ip_address)
}

/// Address of the connection's peer. Envoy never puts a header's address here.
fn ip_address(peer: &Peer) -> Option<IpAddr> {
    match peer.address.as_ref()?.address.as_ref()? {
        AddressKind::SocketAddress(socket) => socket.address.parse().ok(),
        AddressKind::Pipe(_) | AddressKind::EnvoyInternalAddress(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_before_they_are_split() {
        for (text, segments) in [
            ("", vec![""]),
            ("/", vec![""]),
            ("/people/", vec!["people", ""]),
            ("/a//b", vec!["a", "", "b"]),
            ("//admin/x", vec!["admin", "x"]),
            ("%2Fmy%2Ftest", vec!["my", "test"]),
            ("/a#b?c=d", vec!["a#b"]),
        ] {
            assert_eq!(path_and_query(text).unwrap().0, segments, "{text}");
        }
    }

    #[test]
    fn an_empty_message_is_a_request_without_anything() {
        let request = CheckRequest { attributes: None };
        let parsed = parse(&request, BodyParsing::On).unwrap();
        assert_eq!(parsed.path, [""]);
        assert!(parsed.http.is_none() && parsed.query.is_empty() && matches!(parsed.body, Some(Body::None)));
    }
}
