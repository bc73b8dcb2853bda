//! `parsed_body` and `truncated_body`, exactly as OPA-Envoy fills them (`envoyauth/request.go`, `getParsedBody`).

use std::collections::BTreeMap;

use super::go::{self, UrlError, Values};
use super::headers::Headers;
use super::multipart::{self, MultipartError};
use crate::policy::{BadJson, Document, Members};

use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use thiserror::Error;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BodyError {
    #[error("invalid JSON: {0}")]
    Json(#[from] BadJson),
    #[error(transparent)]
    Form(#[from] UrlError),
    #[error(transparent)]
    Multipart(#[from] MultipartError),
    #[error("strconv.ParseInt: parsing {0:?}: invalid syntax")]
    ContentLength(String),
}

#[derive(Debug)]
pub enum Body {
    /// Nothing to parse, or nothing daypass knows how to.
    None,
    Parsed(Document),
    /// Only the beginning arrived.
    Truncated,
}

enum Kind {
    Json,
    Form,
    Multipart,
}

pub fn parse(http: &HttpRequest, headers: &Headers<'_>) -> Result<Body, BodyError> {
    // Envoy's mark for a body it cut off, for any content type.
    if headers.get("x-envoy-auth-partial-body") == Some("true") {
        return Ok(Body::Truncated);
    }
    let Some(content_type) = headers.get("content-type") else { return Ok(Body::None) };
    let kind = if content_type.contains("application/json") {
        Kind::Json
    } else if content_type.contains("application/grpc") {
        // Without a descriptor of its messages a gRPC body is opaque.
        return Ok(Body::None);
    } else if content_type.contains("application/x-www-form-urlencoded") {
        Kind::Form
    } else if content_type.contains("multipart/form-data") {
        Kind::Multipart
    } else {
        return Ok(Body::None);
    };
    let bytes = if http.body.is_empty() { http.raw_body.as_slice() } else { http.body.as_bytes() };
    if bytes.is_empty() {
        return Ok(Body::None);
    }
    if let Some(text) = headers.get("content-length") {
        let declared = text.parse::<i64>().map_err(|_| BodyError::ContentLength(text.to_owned()))?;
        if usize::try_from(declared).is_ok_and(|declared| declared > bytes.len()) {
            return Ok(Body::Truncated);
        }
    }
    match kind {
        Kind::Json => Ok(Body::Parsed(Document::from_json(&go::to_text(bytes))?)),
        Kind::Form => Ok(Body::Parsed(values(&go::parse_query(&go::to_text(bytes))?))),
        Kind::Multipart => form_data(content_type, bytes),
    }
}

/// An object of lists of strings.
pub fn values(pairs: &Values) -> Document {
    let mut members = Members::new();
    for (name, values) in pairs {
        members.set_named(name, Document::list(values.iter().map(|value| Document::string(value))));
    }
    members.build()
}

fn form_data(content_type: &str, bytes: &[u8]) -> Result<Body, BodyError> {
    let (_, mut parameters) = multipart::parse_media_type(content_type)?;
    let Some(boundary) = parameters.remove("boundary") else { return Ok(Body::None) };
    let mut fields: BTreeMap<String, Vec<Document>> = BTreeMap::new();
    for part in multipart::parts(bytes, &boundary)? {
        if part.form_name.is_empty() {
            continue;
        }
        let text = go::to_text(part.body);
        let value = if part.content_type.contains("application/json") {
            Document::from_json(&text)?
        } else {
            Document::string(&text)
        };
        fields.entry(part.form_name).or_default().push(value);
    }
    let mut members = Members::new();
    for (name, values) in fields {
        members.set_named(&name, Document::list(values));
    }
    Ok(Body::Parsed(members.build()))
}
