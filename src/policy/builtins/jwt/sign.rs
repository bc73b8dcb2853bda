//! `io.jwt.encode_sign` and its raw form: tokens that a policy issues with a key of its own.

use regorus::Value;

use super::super::{Fault, Outcome, text};
use crate::jws::{Algorithm, base64, jwk, sign};
use crate::policy::json;

/// Nesting of headers and payloads. Marshalling recurses once per level.
const MAX_DEPTH: usize = 512;

pub fn encode_sign(headers: &Value, payload: &Value, key: &Value) -> Outcome {
    encode(&marshal(headers)?, &marshal(payload)?, &marshal(key)?)
}

pub fn encode_sign_raw(headers: &Value, payload: &Value, key: &Value) -> Outcome {
    let key = text(3, key)?;
    encode(text(1, headers)?, text(2, payload)?, key)
}

fn encode(headers: &str, payload: &str, key: &str) -> Outcome {
    let keys = jwk::parse_set(key)
        .map_err(|error| Fault::failed(format!("failed to parse a JWK key (set): {error}")))?;
    let key = keys.first().ok_or_else(|| Fault::failed("no keys found in JWK set"))?;
    let members = read_headers(headers)
        .map_err(|error| Fault::failed(format!("missing or invalid 'alg' header: {error}")))?;
    let header = |name| match &members {
        Value::Object(members) => match members.get(&Value::from(name)) {
            Some(Value::String(text)) => Some(text.to_string()),
            _ => None,
        },
        _ => None,
    };
    let name = header("alg")
        .ok_or_else(|| Fault::failed("missing or invalid 'alg' header: jwsbb: header \"alg\" not found"))?;
    let algorithm =
        Algorithm::named(&name).ok_or_else(|| Fault::failed(format!("unknown JWS algorithm: {name}")))?;
    let is_jwt = header("typ").is_none_or(|kind| kind == "JWT");
    if is_jwt && json::parse(payload).is_err() {
        return Err(Fault::failed("type is JWT but payload is not JSON"));
    }
    let (headers, payload) = (headers.as_bytes(), payload.as_bytes());
    let signed = format!("{}.{}", base64::encode_url(headers), base64::encode_url(payload));
    let signature = sign(algorithm, &key.key, signed.as_bytes()).map_err(Fault::failed)?;
    Ok(Value::from(format!("{signed}.{}", base64::encode_url(&signature))))
}

/// What looks like a number to a lax reader has no members, but is not broken either.
fn read_headers(headers: &str) -> Result<Value, String> {
    if headers.trim().is_empty() {
        return Err("cannot parse JSON: cannot parse empty string".to_owned());
    }
    match json::parse(headers) {
        Ok(value) => Ok(value),
        Err(_) if headers.chars().all(|c| matches!(c, '0'..='9' | 'e' | 'E' | '+' | '-' | '.')) => {
            Ok(Value::Null)
        }
        Err(error) => Err(format!("cannot parse JSON: {error}")),
    }
}

/// As Go marshals what OPA hands it: members in order, sets as arrays, and safe within HTML.
fn marshal(value: &Value) -> Result<String, Fault> {
    let mut text = String::new();
    write(value, 0, &mut text)?;
    Ok(text)
}

fn write(value: &Value, depth: usize, out: &mut String) -> Result<(), Fault> {
    if depth > MAX_DEPTH {
        return Err(Fault::failed(format!("nested deeper than {MAX_DEPTH} levels")));
    }
    match value {
        Value::Array(items) => list(items.iter(), depth, out),
        Value::Set(items) => list(items.iter(), depth, out),
        Value::Object(members) => {
            out.push('{');
            for (index, (name, value)) in members.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                match name {
                    Value::String(name) => quote(name, out),
                    other => quote(&marshal(other)?, out),
                }
                out.push(':');
                write(value, depth + 1, out)?;
            }
            out.push('}');
            Ok(())
        }
        Value::String(text) => {
            quote(text, out);
            Ok(())
        }
        scalar => {
            out.push_str(&scalar.to_json_str().map_err(|error| Fault::failed(error.to_string()))?);
            Ok(())
        }
    }
}

fn list<'v>(items: impl Iterator<Item = &'v Value>, depth: usize, out: &mut String) -> Result<(), Fault> {
    out.push('[');
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(',');
        }
        write(item, depth + 1, out)?;
    }
    out.push(']');
    Ok(())
}

/// Of a character of the basic plane.
fn hex_digits(c: char) -> impl Iterator<Item = char> {
    [12, 8, 4, 0].into_iter().filter_map(move |shift| char::from_digit((u32::from(c) >> shift) & 0xf, 16))
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\0'..='\u{1f}' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out.push_str("\\u");
                out.extend(hex_digits(c));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}
