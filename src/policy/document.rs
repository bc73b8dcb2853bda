//! Values on their way into policy, built without passing through JSON text.
//!
//! Faces describe a request with [`Document`] and never see the engine's own value type. Member names that occur in
//! every request are made once per thread: a shared one would have all cores count references on one cache line.

use regorus::value::Object;
use regorus::{Rc, Value};
use thiserror::Error;

use super::builtins::yaml;
use super::json;

macro_rules! keys {
    ($($name:ident $text:literal)*) => {
        /// A member name of the input document.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Key { $($name),* }

        const KEY_TEXTS: &[&str] = &[$($text),*];
    };
}

keys! {
    Address "address"
    AgeMs "age_ms"
    Attributes "attributes"
    Body "body"
    Certificate "certificate"
    ContextExtensions "contextExtensions"
    Covering "covering"
    Destination "destination"
    Encoding "encoding"
    EndpointId "endpointId"
    EnvoyInternalAddress "envoyInternalAddress"
    ExpiresAt "expires_at"
    ExtAuthz "ext_authz"
    FilterMetadata "filterMetadata"
    Fragment "fragment"
    Fresh "fresh"
    Grants "grants"
    HeaderMap "headerMap"
    Headers "headers"
    Host "host"
    Http "http"
    Id "id"
    Ipv4Compat "ipv4Compat"
    Jit "jit"
    Key "key"
    Labels "labels"
    MetadataContext "metadataContext"
    Method "method"
    Mode "mode"
    NamedPort "namedPort"
    Nanos "nanos"
    NetworkNamespaceFilepath "networkNamespaceFilepath"
    ParsedBody "parsed_body"
    ParsedPath "parsed_path"
    ParsedQuery "parsed_query"
    Path "path"
    Pipe "pipe"
    PortValue "portValue"
    Principal "principal"
    Principals "principals"
    Protocol "protocol"
    Query "query"
    RawBody "rawBody"
    RawValue "rawValue"
    Replica "replica"
    Request "request"
    ResolverName "resolverName"
    RouteMetadataContext "routeMetadataContext"
    Scheme "scheme"
    Seconds "seconds"
    ServerListenerName "serverListenerName"
    Service "service"
    Size "size"
    Sni "sni"
    SocketAddress "socketAddress"
    Source "source"
    SourcePrincipal "source_principal"
    Subject "subject"
    Time "time"
    TlsSession "tlsSession"
    TruncatedBody "truncated_body"
    TypeUrl "typeUrl"
    TypedFilterMetadata "typedFilterMetadata"
    Value "value"
    Version "version"
}

thread_local! {
    static KEYS: Vec<Value> = KEY_TEXTS.iter().map(|text| Value::from(*text)).collect();
    static VERSION: Value = Members::new()
        .with(Key::ExtAuthz, Document::string("v3"))
        .with(Key::Encoding, Document::string("protojson"))
        .build()
        .0;
}

impl Key {
    fn value(self) -> Value {
        KEYS.with(|keys| keys.get(self as usize).cloned().unwrap_or(Value::Undefined))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct BadJson(pub(in crate::policy) String);

/// A JSON-like value.
#[derive(Debug, Clone, PartialEq)]
pub struct Document(pub(in crate::policy) Value);

impl Document {
    pub const NULL: Self = Self(Value::Null);

    #[must_use]
    pub fn string(text: &str) -> Self {
        Self(Value::String(text.into()))
    }

    #[must_use]
    pub fn bool(value: bool) -> Self {
        Self(Value::Bool(value))
    }

    #[must_use]
    pub fn integer(value: i64) -> Self {
        Self(Value::from(value))
    }

    #[must_use]
    pub fn unsigned(value: u64) -> Self {
        Self(Value::from(value))
    }

    /// A whole number becomes an integer, as it would have on its way through JSON.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "whole and within the range where doubles are exact")]
    pub fn double(value: f64) -> Self {
        const EXACT: f64 = 9_007_199_254_740_992.0;
        if value.fract() == 0.0 && value.abs() <= EXACT {
            Self(Value::from(value as i64))
        } else {
            Self(Value::from(value))
        }
    }

    #[must_use]
    pub fn list(items: impl IntoIterator<Item = Self>) -> Self {
        Self(Value::from(items.into_iter().map(|item| item.0).collect::<Vec<_>>()))
    }

    /// `input.version`: which document this is, in OPA-Envoy's words.
    #[must_use]
    pub fn version() -> Self {
        Self(VERSION.with(Value::clone))
    }

    /// Exactly one JSON value, with the meaning it has in OPA.
    ///
    /// # Errors
    /// The text is not JSON, nests too deep, or has a number out of range.
    pub fn from_json(text: &str) -> Result<Self, BadJson> {
        json::parse(text).map(Self).map_err(|error| BadJson(error.to_string()))
    }

    /// One document of YAML, with the meaning it has in data files.
    ///
    /// # Errors
    /// The text is not YAML, or has no form in JSON.
    pub fn from_yaml(text: &str) -> Result<Self, BadJson> {
        yaml::read::read(text).map(Self).map_err(BadJson)
    }

    /// # Errors
    /// The value holds something JSON has no form for.
    pub fn to_json(&self) -> Result<String, BadJson> {
        self.0.to_json_str().map_err(|error| BadJson(error.to_string()))
    }

    /// None if it is no string.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        if let Value::String(text) = &self.0 { Some(text) } else { None }
    }

    #[must_use]
    pub fn has_member(&self, name: &str) -> bool {
        matches!(&self.0, Value::Object(members) if members.contains_key(&Value::from(name)))
    }

    /// JSON as Go's encoder writes it where HTML is not its concern: what hashes of documents are over. Members are in the
    /// order of their names, and there is no white space.
    pub fn write_as_go(&self, write: &mut dyn FnMut(&[u8])) {
        write_value(&self.0, write);
    }

    #[must_use]
    pub fn is_undefined(&self) -> bool {
        self.0 == Value::Undefined
    }
}

fn write_value(value: &Value, write: &mut dyn FnMut(&[u8])) {
    match value {
        Value::Bool(value) => write(value.to_string().as_bytes()),
        Value::Number(_) => write(go_number(value).as_bytes()),
        Value::String(text) => write_text(text, write),
        Value::Array(items) => {
            write(b"[");
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    write(b",");
                }
                write_value(item, write);
            }
            write(b"]");
        }
        Value::Object(members) => {
            write(b"{");
            for (index, (name, value)) in members.iter_sorted().enumerate() {
                if index > 0 {
                    write(b",");
                }
                write_value(name, write);
                write(b":");
                write_value(value, write);
            }
            write(b"}");
        }
        Value::Null | Value::Undefined | Value::Set(_) => write(b"null"),
    }
}

/// A string as Go's encoder writes it.
pub fn write_text(text: &str, write: &mut dyn FnMut(&[u8])) {
    let text = serde_json::Value::from(text).to_string();
    // JavaScript took these for ends of lines, and Go still escapes them.
    if text.contains(['\u{2028}', '\u{2029}']) {
        write(text.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029").as_bytes());
    } else {
        write(text.as_bytes());
    }
}

fn go_number(number: &Value) -> String {
    // What 64 bits do not hold is a double there.
    if let Ok(whole) = number.as_i128()
        && (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&whole)
    {
        return whole.to_string();
    }
    let value = number.as_f64().unwrap_or_default();
    if (1e-6..1e21).contains(&value.abs()) {
        return value.to_string();
    }
    let text = format!("{value:e}");
    if text.contains("e-") { text } else { text.replace('e', "e+") }
}

/// The members of an object in the making.
#[derive(Debug, Default)]
pub struct Members(Object);

impl Members {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn with(mut self, key: Key, document: Document) -> Self {
        self.set(key, document);
        self
    }

    pub fn set(&mut self, key: Key, document: Document) {
        self.0.insert(key.value(), document.0);
    }

    /// For names that come from the request.
    pub fn set_named(&mut self, name: &str, document: Document) {
        self.0.insert(Value::String(name.into()), document.0);
    }

    /// Sets unless empty: OPA-Envoy shows only populated fields.
    pub fn set_text(&mut self, key: Key, text: &str) {
        if !text.is_empty() {
            self.set(key, Document::string(text));
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn build(self) -> Document {
        Document(Value::Object(Rc::new(self.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_is_hashed_as_go_writes_it() {
        for (text, wanted) in [
            ("yes", "true"),
            ("~", "null"),
            ("010", "8"),
            ("-0b11", "-3"),
            ("-0", "0"),
            ("089", "89"),
            ("18446744073709551615", "18446744073709551615"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("18446744073709551616", "18446744073709552000"),
            ("1.0", "1"),
            ("1e3", "1000"),
            ("1.50", "1.5"),
            ("1e21", "1e+21"),
            ("0.0000001", "1e-7"),
            ("12e03 ", "12000"),
            ("{b: [1, x], a: {}}", r#"{"a":{},"b":[1,"x"]}"#),
            (r#""<\L\u0007""#, r#""<\u2028\u0007""#),
        ] {
            let mut written = Vec::new();
            Document::from_yaml(text).unwrap().write_as_go(&mut |part| written.extend_from_slice(part));
            assert_eq!(String::from_utf8(written).unwrap(), wanted, "{text}");
        }
    }

    #[test]
    fn keys_are_in_step_with_their_texts() {
        assert_eq!(Key::Address.value(), Value::from("address"));
        assert_eq!(Key::Jit.value(), Value::from("jit"));
        assert_eq!(Key::Version.value(), Value::from("version"));
    }
}
