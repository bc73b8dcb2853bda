//! `parsed_body` and `truncated_body`, exactly as OPA-Envoy fills them (`envoyauth/request.go`, `getParsedBody`).

use super::go::{self, UrlError};
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
        Kind::Json => Ok(Body::Parsed(json(&go::to_text(bytes))?)),
        Kind::Form => Ok(Body::Parsed(values(go::parse_query(&go::to_text(bytes))?))),
        Kind::Multipart => form_data(content_type, bytes),
    }
}

/// An object of lists of strings.
pub fn values(pairs: Vec<(String, Vec<String>)>) -> Document {
    let mut members = Members::new();
    for (name, values) in pairs {
        members.set_named(&name, Document::list(values.iter().map(|value| Document::string(value))));
    }
    members.build()
}

fn form_data(content_type: &str, bytes: &[u8]) -> Result<Body, BodyError> {
    let (_, parameters) = multipart::parse_media_type(content_type)?;
    let Some((_, boundary)) = parameters.into_iter().find(|(name, _)| name == "boundary") else {
        return Ok(Body::None);
    };
    let mut fields: Vec<(String, Vec<Document>)> = Vec::new();
    for part in multipart::parts(bytes, &boundary)? {
        if part.form_name.is_empty() {
            continue;
        }
        let text = go::to_text(part.body);
        let value =
            if part.content_type.contains("application/json") { json(&text)? } else { Document::string(&text) };
        match fields.iter_mut().find(|(name, _)| *name == part.form_name) {
            Some((_, values)) => values.push(value),
            None => fields.push((part.form_name, vec![value])),
        }
    }
    let mut members = Members::new();
    for (name, values) in fields {
        members.set_named(&name, Document::list(values));
    }
    Ok(Body::Parsed(members.build()))
}

/// Go takes a lone half of a surrogate pair for U+FFFD, where our parser refuses it.
fn json(text: &str) -> Result<Document, BadJson> {
    Document::from_json(text).or_else(|error| match without_lone_surrogates(text) {
        Some(mended) => Document::from_json(&mended),
        None => Err(error),
    })
}

fn without_lone_surrogates(text: &str) -> Option<String> {
    let unit = |at: usize| -> Option<u32> {
        let digits = text.get(at..)?.strip_prefix("\\u")?.get(..4)?;
        u32::from_str_radix(digits, 16).ok()
    };
    let mut mended = String::with_capacity(text.len());
    let mut has_changed = false;
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let (taken, replacement) = match (c, unit(at)) {
            ('\\', Some(0xd800..=0xdbff)) if matches!(unit(at + 6), Some(0xdc00..=0xdfff)) => (12, None),
            ('\\', Some(0xd800..=0xdfff)) => (6, Some("\\ufffd")),
            ('\\', _) => (1 + text[at + 1..].chars().next().map_or(0, char::len_utf8), None),
            (c, _) => (c.len_utf8(), None),
        };
        has_changed |= replacement.is_some();
        mended.push_str(replacement.unwrap_or(&text[at..at + taken]));
        at += taken;
    }
    has_changed.then_some(mended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lone_surrogates_become_the_replacement_character() {
        let text = |source: &str| json(source).map(|document| document.to_json().unwrap());
        assert_eq!(text(r#""\ud800x""#).unwrap(), "\"\u{fffd}x\"");
        assert_eq!(text(r#""\udc00\ud800""#).unwrap(), "\"\u{fffd}\u{fffd}\"");
        assert_eq!(text(r#""\ud83d\ude00""#).unwrap(), "\"😀\"");
        assert_eq!(text(r#""\\ud800""#).unwrap(), r#""\\ud800""#);
        assert!(text(r#""\ud800"#).is_err());
        assert!(text("\"\\").is_err());
    }
}
