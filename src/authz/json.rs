//! A CheckRequest from protobuf's JSON mapping: what Envoy's protos look like in documentation, logs and test files.
//! For people who ask how a request would be decided; never on the way of one that is.
//!
//! Members that no decision can depend on here (pipes, typed metadata) are refused by name rather than left out.

use std::collections::HashMap;

use data_encoding::BASE64;
use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, Metadata, SocketAddress};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request, TlsSession};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Timestamp, Value as ProtoValue};
use serde_json::{Map, Value};
use thiserror::Error;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CheckJsonError {
    #[error("not JSON: {0}")]
    NotJson(String),
    #[error("{place} is {found}, not {wanted}")]
    WrongType { place: String, wanted: &'static str, found: &'static str },
    #[error("{0} is not a member of a CheckRequest that can be given here")]
    Unknown(String),
    #[error("{place}: {message}")]
    Bad { place: String, message: String },
}

type Read<T> = Result<T, CheckJsonError>;

/// # Errors
/// The text is not the JSON form of a CheckRequest.
pub fn check_request(text: &str) -> Read<CheckRequest> {
    let json: Value =
        serde_json::from_str(text).map_err(|error| CheckJsonError::NotJson(error.to_string()))?;
    let mut root = Object::new("request", json)?;
    let attributes = root.take("attributes").map(|(place, value)| attributes(&place, value)).transpose()?;
    root.finish()?;
    Ok(CheckRequest { attributes })
}

/// Members of one message, by either of their names.
struct Object {
    place: String,
    members: Map<String, Value>,
}

impl Object {
    fn new(place: &str, json: Value) -> Read<Self> {
        match json {
            Value::Object(members) => Ok(Self { place: place.to_owned(), members }),
            other => Err(wrong(place, "an object", &other)),
        }
    }

    /// By its `lowerCamelCase` name, or as the proto spells it.
    fn take(&mut self, name: &str) -> Option<(String, Value)> {
        let snake = name.chars().fold(String::new(), |mut snake, c| {
            if c.is_ascii_uppercase() {
                snake.push('_');
            }
            snake.push(c.to_ascii_lowercase());
            snake
        });
        let value = self.members.remove(name).or_else(|| self.members.remove(&snake))?;
        (!value.is_null()).then(|| (format!("{}.{name}", self.place), value))
    }

    fn text(&mut self, name: &str) -> Read<String> {
        self.take(name).map_or(Ok(String::new()), |(place, value)| text(&place, value))
    }

    fn texts(&mut self, name: &str) -> Read<HashMap<String, String>> {
        let Some((place, value)) = self.take(name) else { return Ok(HashMap::new()) };
        let members = Object::new(&place, value)?.members;
        members
            .into_iter()
            .map(|(key, value)| Ok((key.clone(), text(&format!("{place}.{key}"), value)?)))
            .collect()
    }

    fn finish(self) -> Read<()> {
        match self.members.into_iter().find(|(_, value)| !value.is_null()) {
            Some((name, _)) => Err(CheckJsonError::Unknown(format!("{}.{name}", self.place))),
            None => Ok(()),
        }
    }
}

fn wrong(place: &str, wanted: &'static str, found: &Value) -> CheckJsonError {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    CheckJsonError::WrongType { place: place.to_owned(), wanted, found }
}

fn text(place: &str, value: Value) -> Read<String> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(wrong(place, "a string", &other)),
    }
}

/// Protobuf writes 64-bit numbers as strings.
fn integer(place: &str, value: &Value) -> Read<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
    .ok_or_else(|| wrong(place, "a whole number", value))
}

fn bad(place: &str, message: &impl ToString) -> CheckJsonError {
    CheckJsonError::Bad { place: place.to_owned(), message: message.to_string() }
}

fn attributes(place: &str, value: Value) -> Read<AttributeContext> {
    let mut from = Object::new(place, value)?;
    let found = AttributeContext {
        source: from.take("source").map(|(place, value)| peer(&place, value)).transpose()?,
        destination: from.take("destination").map(|(place, value)| peer(&place, value)).transpose()?,
        request: from.take("request").map(|(place, value)| request(&place, value)).transpose()?,
        context_extensions: from.texts("contextExtensions")?,
        metadata_context: from
            .take("metadataContext")
            .map(|(place, value)| metadata(&place, value))
            .transpose()?,
        route_metadata_context: from
            .take("routeMetadataContext")
            .map(|(place, value)| metadata(&place, value))
            .transpose()?,
        tls_session: from.take("tlsSession").map(|(place, value)| tls_session(&place, value)).transpose()?,
    };
    from.finish()?;
    Ok(found)
}

fn peer(place: &str, value: Value) -> Read<Peer> {
    let mut from = Object::new(place, value)?;
    let found = Peer {
        address: from.take("address").map(|(place, value)| address(&place, value)).transpose()?,
        service: from.text("service")?,
        labels: from.texts("labels")?,
        principal: from.text("principal")?,
        certificate: from.text("certificate")?,
    };
    from.finish()?;
    Ok(found)
}

fn address(place: &str, value: Value) -> Read<Address> {
    let mut from = Object::new(place, value)?;
    let Some((place, value)) = from.take("socketAddress") else {
        from.finish()?;
        return Ok(Address { address: None });
    };
    from.finish()?;
    let mut from = Object::new(&place, value)?;
    let port = from.take("portValue").map(|(place, value)| integer(&place, &value)).transpose()?;
    let port =
        port.map(|port| u32::try_from(port).map_err(|_| bad(&place, &"a port is 0 to 65535"))).transpose()?;
    let found = SocketAddress {
        address: from.text("address")?,
        port_specifier: port.map(PortSpecifier::PortValue),
        ..SocketAddress::default()
    };
    from.finish()?;
    Ok(Address { address: Some(AddressKind::SocketAddress(found)) })
}

fn request(place: &str, value: Value) -> Read<Request> {
    let mut from = Object::new(place, value)?;
    let found = Request {
        time: from.take("time").map(|(place, value)| timestamp(&place, value)).transpose()?,
        http: from.take("http").map(|(place, value)| http(&place, value)).transpose()?,
    };
    from.finish()?;
    Ok(found)
}

fn http(place: &str, value: Value) -> Read<HttpRequest> {
    let mut from = Object::new(place, value)?;
    let size = from.take("size").map_or(Ok(0), |(place, value)| integer(&place, &value))?;
    let raw_body = match from.take("rawBody") {
        Some((place, value)) => {
            BASE64.decode(text(&place, value)?.as_bytes()).map_err(|error| bad(&place, &error))?
        }
        None => Vec::new(),
    };
    let found = HttpRequest {
        id: from.text("id")?,
        method: from.text("method")?,
        headers: from.texts("headers")?,
        header_map: None,
        path: from.text("path")?,
        host: from.text("host")?,
        scheme: from.text("scheme")?,
        query: from.text("query")?,
        fragment: from.text("fragment")?,
        size,
        protocol: from.text("protocol")?,
        body: from.text("body")?,
        raw_body,
    };
    from.finish()?;
    Ok(found)
}

fn timestamp(place: &str, value: Value) -> Read<Timestamp> {
    let time: jiff::Timestamp = text(place, value)?.parse().map_err(|error| bad(place, &error))?;
    Ok(Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() })
}

fn tls_session(place: &str, value: Value) -> Read<TlsSession> {
    let mut from = Object::new(place, value)?;
    let found = TlsSession { sni: from.text("sni")? };
    from.finish()?;
    Ok(found)
}

fn metadata(place: &str, value: Value) -> Read<Metadata> {
    let mut from = Object::new(place, value)?;
    let mut found = Metadata::default();
    if let Some((place, value)) = from.take("filterMetadata") {
        for (filter, value) in Object::new(&place, value)?.members {
            let Value::Object(members) = value else {
                return Err(wrong(&format!("{place}.{filter}"), "an object", &value));
            };
            found.filter_metadata.insert(filter, structure(members));
        }
    }
    from.finish()?;
    Ok(found)
}

fn structure(members: Map<String, Value>) -> Struct {
    Struct { fields: members.into_iter().map(|(name, value)| (name, proto_value(value))).collect() }
}

fn proto_value(value: Value) -> ProtoValue {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(value),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(items) => {
            Kind::ListValue(ListValue { values: items.into_iter().map(proto_value).collect() })
        }
        Value::Object(members) => Kind::StructValue(structure(members)),
    };
    ProtoValue { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reads_as_protobuf_writes_it_and_nothing_is_left_out_silently() {
        let request = check_request(
            r#"{"attributes": {"source": {"address": {"socketAddress": {"address": "10.0.0.1", "portValue": 5}}},
            "request": {"time": "2026-11-23T03:24:47.289403Z", "http": {"method": "GET", "path": "/x", "host": "h",
            "headers": {"a": "b"}, "size": "-1", "raw_body": "AAE="}},
            "metadata_context": {"filterMetadata": {"f": {"n": 1, "l": [true, null]}}}, "tlsSession": {"sni": "s"}}}"#,
        )
        .unwrap();
        let attributes = request.attributes.unwrap();
        let http = attributes.request.unwrap().http.unwrap();
        assert_eq!((http.method.as_str(), http.size, http.raw_body.as_slice()), ("GET", -1, &[0, 1][..]));
        assert!(attributes.metadata_context.unwrap().filter_metadata.contains_key("f"));
        for (text, message) in [
            ("{", "not JSON"),
            ("[]", "request is a list, not an object"),
            (
                r#"{"attributes": {"request": {"http": {"metod": "GET"}}}}"#,
                "request.attributes.request.http.metod",
            ),
            (r#"{"attributes": {"request": {"http": {"path": 1}}}}"#, "http.path is a number, not a string"),
            (r#"{"attributes": {"source": {"address": {"pipe": {}}}}}"#, "address.pipe is not a member"),
            (r#"{"attributes": {"request": {"time": "now"}}}"#, "request.time:"),
        ] {
            let error = check_request(text).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
