//! `providers.aws.sign_req`: AWS Signature Version 4 on a request that the policy only builds. Nothing is sent, and no
//! credential is read from anywhere but the operands.

use std::collections::BTreeMap;
use std::fmt::Write;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use regorus::Value;
use regorus::value::Object;
use ring::{digest, hmac};

use super::{Builtin, Fault, Outcome, ternary};

pub const BUILTINS: [Builtin; 1] = [ternary("providers.aws.sign_req", sign_request)];

const CONFIG_KEYS: [&str; 4] = ["aws_access_key", "aws_region", "aws_secret_access_key", "aws_service"];
const REQUEST_KEYS: [&str; 2] = ["method", "url"];
/// What a request for `http.send` may say besides.
const OPTIONAL_KEYS: [&str; 26] = [
    "body",
    "cache",
    "cache_ignored_headers",
    "caching_mode",
    "enable_redirect",
    "force_cache",
    "force_cache_duration_seconds",
    "force_json_decode",
    "force_yaml_decode",
    "headers",
    "max_retry_attempts",
    "raise_error",
    "raw_body",
    "timeout",
    "tls_ca_cert",
    "tls_ca_cert_env_variable",
    "tls_ca_cert_file",
    "tls_client_cert",
    "tls_client_cert_env_variable",
    "tls_client_cert_file",
    "tls_client_key",
    "tls_client_key_env_variable",
    "tls_client_key_file",
    "tls_insecure_skip_verify",
    "tls_server_name",
    "tls_use_system_certs",
];
/// Headers that proxies change on the way.
const UNSIGNED_HEADERS: [&str; 3] = ["authorization", "user-agent", "x-amzn-trace-id"];
const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";

fn sign_request(request: &Value, config: &Value, time: &Value) -> Outcome {
    let request = object(request)?;
    let config = object(config)?;
    present_texts(2, config, &CONFIG_KEYS, "AWS config")?;
    let Value::Number(number) = time else { return Err(Fault::operand(1, "number", time)) };
    // A time before 1970 signs nothing.
    let moment = number.as_i64().filter(|nanoseconds| *nanoseconds >= 0);
    let moment =
        moment.and_then(|nanoseconds| Timestamp::from_nanosecond(nanoseconds.into()).ok()).ok_or_else(
            || Fault::Type("operand 3 could not convert time_ns value into a unix timestamp".to_owned()),
        )?;
    known_keys(request)?;
    missing(1, request, &REQUEST_KEYS, "request")?;
    let headers: BTreeMap<String, String> = match member(request, "headers") {
        None => BTreeMap::new(),
        Some(Value::Object(headers)) => headers
            .iter()
            .map(|(name, value)| (text_or_empty(Some(name)), text_or_empty(Some(value))))
            .collect(),
        Some(other) => return Err(Fault::operand(0, "object", other)),
    };
    present_texts(1, request, &REQUEST_KEYS, "request")?;
    let url = Url::parse(&text_or_empty(member(request, "url")))?;
    let body = body(request)?;
    let is_unsigned = match member(config, "disable_payload_signing") {
        None => false,
        Some(Value::Bool(disable)) => *disable,
        Some(_) => {
            let message = "operand 2 invalid value for 'disable_payload_signing' in AWS config";
            return Err(Fault::Type(message.to_owned()));
        }
    };
    let payload = if is_unsigned { UNSIGNED_PAYLOAD.to_owned() } else { sha256(body.as_bytes()) };
    let method = text_or_empty(member(request, "method"));
    let (authorization, added) = signature(config, &method, &url, &headers, &payload, moment);

    let mut signed: BTreeMap<Value, Value> =
        headers.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    signed.insert("Authorization".into(), authorization.into());
    signed.extend(added.into_iter().map(|(name, value)| (name.into(), value.into())));
    let mut result: BTreeMap<Value, Value> =
        request.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    result.insert("headers".into(), Value::from(signed));
    Ok(Value::from(result))
}

/// All three operands are called the first, as in OPA.
fn object(value: &Value) -> Result<&Object, Fault> {
    value.as_object().map_err(|_| Fault::operand(1, "object", value))
}

fn member<'a>(object: &'a Object, key: &str) -> Option<&'a Value> {
    object.get(&Value::from(key))
}

fn text_or_empty(value: Option<&Value>) -> String {
    value.and_then(|value| value.as_string().ok()).map(ToString::to_string).unwrap_or_default()
}

fn set_of(keys: &[&str]) -> String {
    let quoted: Vec<String> = keys.iter().map(|key| format!("{key:?}")).collect();
    format!("{{{}}}", quoted.join(", "))
}

fn missing(position: usize, object: &Object, keys: &[&str], what: &str) -> Result<(), Fault> {
    let missing: Vec<&str> = keys.iter().copied().filter(|key| member(object, key).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let missing = set_of(&missing);
    Err(Fault::Type(format!("operand {position} missing required {what} parameters(s): {missing}")))
}

fn present_texts(position: usize, object: &Object, keys: &[&str], what: &str) -> Result<(), Fault> {
    missing(position, object, keys, what)?;
    let is_text = |key: &str| matches!(member(object, key), Some(Value::String(_)));
    let invalid: Vec<&str> = keys.iter().copied().filter(|key| !is_text(key)).collect();
    if invalid.is_empty() {
        return Ok(());
    }
    let invalid = set_of(&invalid);
    Err(Fault::Type(format!(
        "operand {position} invalid values for required {what} parameters(s): {invalid}"
    )))
}

fn known_keys(request: &Object) -> Result<(), Fault> {
    let is_known = |key: &Value| {
        let Ok(key) = key.as_string() else { return false };
        REQUEST_KEYS.contains(&&**key) || OPTIONAL_KEYS.contains(&&**key)
    };
    let unknown: Vec<String> = request
        .iter_sorted()
        .map(|(key, _)| key)
        .filter(|key| !is_known(key))
        .map(Value::to_string)
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(Fault::Type(format!("operand 1 invalid request parameters(s): {{{}}}", unknown.join(", "))))
}

fn body(request: &Object) -> Result<String, Fault> {
    match (member(request, "raw_body"), member(request, "body")) {
        (None, None) => Ok(String::new()),
        (Some(raw), _) => Ok(text_or_empty(Some(raw))),
        (None, Some(body)) => {
            let json = serde_json::to_string(body).map_err(|error| Fault::failed(error.to_string()))?;
            Ok(go_escaped(&json))
        }
    }
}

/// Go writes these escaped; outside of strings JSON has none of them.
fn go_escaped(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(escaped, "\\u{:04x}", u32::from(c));
            }
            other => escaped.push(other),
        }
    }
    escaped
}

/// `Authorization`, and the headers that it needs beside it.
fn signature(
    config: &Object,
    method: &str,
    url: &Url,
    headers: &BTreeMap<String, String>,
    payload: &str,
    moment: Timestamp,
) -> (String, BTreeMap<&'static str, String>) {
    let setting = |key: &str| text_or_empty(member(config, key));
    let (region, service, token) =
        (setting("aws_region"), setting("aws_service"), setting("aws_session_token"));
    let day = moment.strftime("%Y%m%d").to_string();
    let time = moment.strftime("%Y%m%dT%H%M%SZ").to_string();
    let mut added = BTreeMap::from([("host", url.host.clone()), ("x-amz-date", time.clone())]);
    if matches!(service.as_str(), "s3" | "glacier") {
        added.insert("x-amz-content-sha256", payload.to_owned());
    }
    if !token.is_empty() {
        added.insert("x-amz-security-token", token);
    }
    let mut signed: BTreeMap<String, &str> =
        added.iter().map(|(name, value)| ((*name).to_owned(), value.as_str())).collect();
    for (name, value) in headers {
        let name = name.to_lowercase();
        if !UNSIGNED_HEADERS.contains(&name.as_str()) {
            signed.insert(name, value);
        }
    }
    let names = signed.keys().map(String::as_str).collect::<Vec<_>>().join(";");
    let mut canonical = format!("{method}\n{}\n{}\n", url.path, url.query);
    for (name, value) in &signed {
        // Writing to a string does not fail.
        let _ = writeln!(canonical, "{name}:{value}");
    }
    let _ = write!(canonical, "\n{names}\n{payload}");

    let scope = format!("{day}/{region}/{service}/aws4_request");
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", sha256(canonical.as_bytes()));
    let secret = format!("AWS4{}", setting("aws_secret_access_key"));
    let key = [day.as_str(), &region, &service, "aws4_request"]
        .iter()
        .fold(secret.into_bytes(), |key, part| hmac_sha256(&key, part).as_ref().to_vec());
    let signature = HEXLOWER.encode(hmac_sha256(&key, &to_sign).as_ref());
    let access_key = setting("aws_access_key");
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={access_key}/{scope},SignedHeaders={names},Signature={signature}"
    );
    (authorization, added)
}

fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hmac_sha256(key: &[u8], message: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message.as_bytes())
}

/// The parts of an address that are signed, as Go's `net/url` gives them.
#[derive(Debug, PartialEq, Eq)]
struct Url {
    host: String,
    path: String,
    query: String,
}

impl Url {
    fn parse(text: &str) -> Result<Self, Fault> {
        let invalid = |why: &str| Fault::failed(format!("parse {text:?}: {why}"));
        if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
            return Err(invalid("net/url: invalid control character in URL"));
        }
        let text_part = text.split_once('#').map_or(text, |(before, _)| before);
        let (address, query) = text_part.split_once('?').unwrap_or((text_part, ""));
        let rest = match address.split_once(':') {
            Some(("", _)) => return Err(invalid("missing protocol scheme")),
            Some((scheme, rest)) if is_scheme(scheme) => rest,
            _ => address,
        };
        let (host, path) = match rest.strip_prefix("//") {
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None => ("", rest),
        };
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        let path = escaped_path(path).ok_or_else(|| invalid("invalid URL escape"))?;
        Ok(Self { host: host.to_owned(), path, query: query.to_owned() })
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// As it is where every character may stand in a path; else what it means, escaped anew.
fn escaped_path(path: &str) -> Option<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte);
    let mut meant = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            let [high, low] = digits.map(digit);
            meant.push(high? << 4 | low?);
        } else {
            meant.push(byte);
        }
    }
    if path.bytes().all(|byte| is_plain(byte) || b"%!'()*[]".contains(&byte)) {
        return Some(path.to_owned());
    }
    let mut escaped = String::new();
    for byte in meant {
        if is_plain(byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    Some(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_in_go() {
        let url = |text: &str| Url::parse(text).map(|url| (url.host, url.path, url.query)).unwrap();
        let parts =
            |host: &str, path: &str, query: &str| (host.to_owned(), path.to_owned(), query.to_owned());
        assert_eq!(url("https://u:p@a.b:8080/x%2Fy/(z)?q=1&r#f"), parts("a.b:8080", "/x%2Fy/(z)", "q=1&r"));
        assert_eq!(url("http://a/b c%41"), parts("a", "/b%20cA", ""));
        assert_eq!(url("http://a"), parts("a", "", ""));
        assert_eq!(url("/only/path"), parts("", "/only/path", ""));
        assert!(Url::parse("http://a/%zz").is_err());
        assert!(Url::parse("http://a/\n").is_err());
        assert!(Url::parse("://a").is_err());
    }

    #[test]
    fn a_body_is_json_as_go_writes_it() {
        assert_eq!(go_escaped("{\"a\":\"<&>\u{2028}\"}"), "{\"a\":\"\\u003c\\u0026\\u003e\\u2028\"}");
    }

    #[test]
    fn operands_are_checked() {
        let json = |text: &str| Value::from_json_str(text).unwrap();
        let request = json(r#"{"method": "GET", "url": "http://a", "other": 1}"#);
        let config = json(
            r#"{"aws_access_key": "a", "aws_secret_access_key": "b", "aws_region": "c", "aws_service": "d"}"#,
        );
        let message = |request: &Value, time: Value| match sign_request(request, &config, &time) {
            Ok(_) => String::new(),
            Err(fault) => fault.to_string(),
        };
        assert!(
            message(&request, 1u64.into()).contains("operand 1 invalid request parameters(s): {\"other\"}")
        );
        let request = json(r#"{"method": "GET", "url": "http://a", "headers": 1}"#);
        assert!(message(&request, 1u64.into()).contains("must be object but got number"));
        assert!(message(&request, Value::from("x")).contains("must be number"));
        assert!(message(&request, Value::from(1.5)).contains("could not convert"));
    }
}
