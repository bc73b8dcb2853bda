//! What one request is after, in the form that globs are compared with.
//!
//! Grants are allow-lists, and the upstream has the last word on what a path means. So a path is compared in its
//! decoded form, and a path on whose decoding two servers could disagree is never covered.

use std::borrow::Cow;
use std::net::IpAddr;

use thiserror::Error;

/// Why a path could mean something else to the upstream than to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AmbiguousPath {
    #[error("it does not begin with `/`")]
    NotAbsolute,
    #[error("it has an empty segment (`//`)")]
    EmptySegment,
    #[error("it has a segment of dots and spaces alone")]
    DotSegment,
    #[error("it has a backslash or an encoded slash or backslash")]
    HiddenSeparator,
    #[error("it has a `%` that is not the start of an escape, or an escape of an escape")]
    BadEscape,
    #[error("it has control characters, `#` or bytes that are not UTF-8")]
    Unprintable,
}

#[derive(Debug, Clone)]
pub struct Target<'a> {
    host: Option<Cow<'a, str>>,
    method: Option<Cow<'a, str>>,
    path: Option<Result<Cow<'a, str>, AmbiguousPath>>,
    is_grpc: bool,
    source: Option<IpAddr>,
}

impl<'a> Target<'a> {
    /// `path` is the `:path` of the request, query included.
    #[must_use]
    pub fn http(host: &'a str, method: &'a str, path: &'a str, content_type: Option<&str>) -> Self {
        Self {
            host: canonical_host_cow(host),
            method: (!method.is_empty()).then(|| canonical_method(method)),
            path: Some(canonical_path(path)),
            is_grpc: content_type.is_some_and(|value| value.starts_with("application/grpc")),
            source: None,
        }
    }

    /// A connection without a request. The server name is what the client asked for in its TLS hello.
    #[must_use]
    pub fn tcp(server_name: Option<&'a str>) -> Self {
        Self {
            host: server_name.and_then(canonical_host_cow),
            method: None,
            path: None,
            is_grpc: false,
            source: None,
        }
    }

    #[must_use]
    pub fn with_source(mut self, source: Option<IpAddr>) -> Self {
        self.source = source;
        self
    }

    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    #[must_use]
    pub fn method(&self) -> Option<&str> {
        self.method.as_deref()
    }

    /// Decoded and without the query; `None` if there is none, or none that is safe to compare.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        self.path.as_ref()?.as_deref().ok()
    }

    /// `package.Service/Method` of a gRPC request.
    #[must_use]
    pub fn grpc_method(&self) -> Option<&str> {
        let path = self.path().filter(|_| self.is_grpc && self.method() == Some("POST"))?;
        path.strip_prefix('/').filter(|rest| rest.matches('/').count() == 1)
    }

    #[must_use]
    pub fn ambiguity(&self) -> Option<AmbiguousPath> {
        self.path.as_ref()?.as_ref().err().copied()
    }

    #[must_use]
    pub fn is_ambiguous(&self) -> bool {
        self.ambiguity().is_some()
    }

    /// Address of the peer of Envoy's connection, never one from a header.
    #[must_use]
    pub fn source(&self) -> Option<IpAddr> {
        self.source
    }
}

/// What a pattern for hosts becomes. Patterns have stars, which names have not.
pub(super) fn canonical_host_pattern(pattern: &str) -> String {
    without_port_and_dot(pattern).to_ascii_lowercase()
}

/// `None` for what cannot be a host: it matches no pattern, so that `*.svc` does not cover `evil,a.svc`.
fn canonical_host_cow(host: &str) -> Option<Cow<'_, str>> {
    let name = without_port_and_dot(host);
    let is_name = !name.is_empty()
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-:[]".contains(&byte));
    if !is_name {
        return None;
    }
    let has_upper = name.bytes().any(|byte| byte.is_ascii_uppercase());
    Some(if has_upper { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) })
}

/// Without port and without the dot that ends a fully qualified name (RFC 9110, section 4.2.3).
fn without_port_and_dot(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        // "[::1]:80" and "a:80" lose the port, "[::1]" and a bare "::1" keep their colons.
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit())
                && (name.ends_with(']') || !name.contains(':')) =>
        {
            name
        }
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

fn canonical_method(method: &str) -> Cow<'_, str> {
    if method.bytes().any(|byte| byte.is_ascii_lowercase()) {
        Cow::Owned(method.to_ascii_uppercase())
    } else {
        Cow::Borrowed(method)
    }
}

fn canonical_path(path_and_query: &str) -> Result<Cow<'_, str>, AmbiguousPath> {
    let path = path_and_query.split_once('?').map_or(path_and_query, |(path, _)| path);
    // OPTIONS * has no path (RFC 9110, section 9.3.7), and a CONNECT to a host none either.
    if path.is_empty() || path == "*" {
        return Ok(Cow::Borrowed(path));
    }
    let Some(rest) = path.strip_prefix('/') else { return Err(AmbiguousPath::NotAbsolute) };
    let decoded = decode(path)?;
    if decoded.chars().any(|c| c.is_control() || c == '#') {
        return Err(AmbiguousPath::Unprintable);
    }
    if decoded.contains('\\') {
        return Err(AmbiguousPath::HiddenSeparator);
    }
    let segments = decoded[1..].split('/');
    let last = rest.matches('/').count();
    for (index, segment) in segments.enumerate() {
        // Some servers drop `;parameters` before they resolve dots, so `/..;/` is a step up to them; others drop
        // spaces and dots at the end of a segment.
        let name = segment.split_once(';').map_or(segment, |(name, _)| name);
        if name.is_empty() && index < last {
            return Err(AmbiguousPath::EmptySegment);
        }
        if !name.is_empty() && name.trim_end_matches(['.', ' ']).is_empty() {
            return Err(AmbiguousPath::DotSegment);
        }
    }
    Ok(decoded)
}

fn decode(path: &str) -> Result<Cow<'_, str>, AmbiguousPath> {
    if !path.contains('%') {
        return Ok(Cow::Borrowed(path));
    }
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        if *byte != b'%' {
            decoded.push(*byte);
            at += 1;
            continue;
        }
        let value = bytes
            .get(at + 1..at + 3)
            .and_then(|digits| Some(hex_digit(digits[0])? << 4 | hex_digit(digits[1])?))
            .ok_or(AmbiguousPath::BadEscape)?;
        match value {
            b'/' | b'\\' => return Err(AmbiguousPath::HiddenSeparator),
            // `%252e` is `%2e` to a server that decodes once and `.` to one that decodes twice.
            b'%' => return Err(AmbiguousPath::BadEscape),
            _ => decoded.push(value),
        }
        at += 3;
    }
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| AmbiguousPath::Unprintable)
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_once_or_refused() {
        for (raw, expected) in [
            ("/", Ok("/")),
            ("/a/b?c=/../d", Ok("/a/b")),
            ("/caf%C3%A9", Ok("/café")),
            ("/%61dmin", Ok("/admin")),
            ("/a/", Ok("/a/")),
            ("/a;v=1/b", Ok("/a;v=1/b")),
            ("/a.b/.c", Ok("/a.b/.c")),
            ("/...", Err(AmbiguousPath::DotSegment)),
            ("/a/..%20/b", Err(AmbiguousPath::DotSegment)),
            ("/a/%20", Err(AmbiguousPath::DotSegment)),
            ("", Ok("")),
            ("*", Ok("*")),
            ("a/b", Err(AmbiguousPath::NotAbsolute)),
            ("//a", Err(AmbiguousPath::EmptySegment)),
            ("/a//b", Err(AmbiguousPath::EmptySegment)),
            ("/a//", Err(AmbiguousPath::EmptySegment)),
            ("/;x/b", Err(AmbiguousPath::EmptySegment)),
            ("/a/..", Err(AmbiguousPath::DotSegment)),
            ("/a/./b", Err(AmbiguousPath::DotSegment)),
            ("/a/%2e%2E/b", Err(AmbiguousPath::DotSegment)),
            ("/a/..;x=1/b", Err(AmbiguousPath::DotSegment)),
            ("/a%2fb", Err(AmbiguousPath::HiddenSeparator)),
            ("/a%5Cb", Err(AmbiguousPath::HiddenSeparator)),
            ("/a\\b", Err(AmbiguousPath::HiddenSeparator)),
            ("/a%00b", Err(AmbiguousPath::Unprintable)),
            ("/a#b", Err(AmbiguousPath::Unprintable)),
            ("/a%ff", Err(AmbiguousPath::Unprintable)),
            ("/a%zz", Err(AmbiguousPath::BadEscape)),
            ("/a%2", Err(AmbiguousPath::BadEscape)),
            ("/a%252e%252e/b", Err(AmbiguousPath::BadEscape)),
        ] {
            assert_eq!(canonical_path(raw).as_deref().map_err(|e| *e), expected, "{raw}");
        }
    }

    #[test]
    fn hosts_lose_case_port_and_final_dot() {
        for (raw, expected) in [
            ("Orders.Prod.svc:8443", Some("orders.prod.svc")),
            ("orders.", Some("orders")),
            ("orders.:80", Some("orders")),
            ("[::1]:8080", Some("[::1]")),
            ("[::1]", Some("[::1]")),
            ("a@b.svc", None),
            ("evil,a.svc", None),
            (".svc", None),
            ("", None),
        ] {
            assert_eq!(canonical_host_cow(raw).as_deref(), expected, "{raw}");
        }
        assert_eq!(canonical_host_pattern("*.Svc:80"), "*.svc");
    }

    #[test]
    fn grpc_methods_need_a_grpc_request() {
        let grpc =
            |method, path, kind| Target::http("h", method, path, kind).grpc_method().map(str::to_owned);
        assert_eq!(grpc("POST", "/p.S/M", Some("application/grpc+proto")).as_deref(), Some("p.S/M"));
        assert_eq!(grpc("POST", "/p.S/M", Some("application/json")), None);
        assert_eq!(grpc("GET", "/p.S/M", Some("application/grpc")), None);
        assert_eq!(grpc("POST", "/p.S/M/x", Some("application/grpc")), None);
    }
}
