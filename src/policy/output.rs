//! What policy said: a boolean, or OPA-Envoy's decision object with daypass' `grants`, `lease` and `reason`.
//!
//! Anything else is an error, and an error is a denial. The checks and their order are those of OPA-Envoy
//! (`envoyauth/response.go`): a key is looked at only where it has a meaning, and then its type must be right.

use std::time::Duration;

use regorus::Value;
use regorus::value::Object;

use super::error::EvalError;
use crate::decision::{DeniedHttp, DenyReason, Json, MIN_REMAINING, Mutations, Pairs};

/// Statuses that both Go's `net/http` and Envoy's `StatusCode` know; OPA-Envoy refuses the rest.
const HTTP_STATUSES: &[std::ops::RangeInclusive<i64>] = &[
    100..=100,
    200..=208,
    226..=226,
    300..=305,
    307..=308,
    400..=417,
    421..=424,
    426..=426,
    428..=429,
    431..=431,
    500..=508,
    510..=511,
];

/// Protobuf readers stop at 100 nested messages, and a level of a Struct is up to three. An answer that Envoy cannot
/// read is an error to it, which it could be told to let through.
const MAX_METADATA_DEPTH: usize = 24;

const DEFAULT_DENIED_STATUS: u16 = 403;

/// A decision as policy put it, before it is held against the grants.
#[derive(Debug, Clone, PartialEq)]
pub struct Ruling {
    pub outcome: Outcome,
    pub metadata: Vec<(String, Json)>,
    /// Ids of the grants it says it rests on; `None` if it says nothing.
    pub grants: Option<Vec<String>>,
    /// Longest stream before its request must be decided anew.
    pub lease: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// `None` for a bare `true`.
    Allow(Option<Mutations>),
    /// `None` for a bare `false`.
    Deny { http: Option<DeniedHttp>, reason: DenyReason },
}

/// Whether the decision's `grants` is daypass' key or one that an OPA-Envoy policy has for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantsKey {
    /// The policy names `input.jit`, so it speaks of grants.
    Binding,
    /// It was written for OPA-Envoy, which ignores keys it does not know. A list of ids is still understood.
    Foreign,
}

impl Ruling {
    pub(super) fn from_value(value: &Value, grants_key: GrantsKey) -> Result<Self, EvalError> {
        match value {
            Value::Undefined => Err(EvalError::Undefined),
            Value::Bool(allowed) => {
                let outcome = if *allowed {
                    Outcome::Allow(None)
                } else {
                    Outcome::Deny { http: None, reason: DenyReason::PolicyDenied }
                };
                Ok(Self { outcome, metadata: Vec::new(), grants: None, lease: None })
            }
            Value::Object(object) => Self::from_object(object, grants_key),
            other => Err(not(format!("a decision is a boolean or an object, not {}", type_name(other)))),
        }
    }

    fn from_object(object: &Object, grants_key: GrantsKey) -> Result<Self, EvalError> {
        let get = |name: &str| object.get(&Value::from(name));
        let allowed = match get("allowed") {
            Some(Value::Bool(allowed)) => *allowed,
            Some(other) => return Err(wrong_type("allowed", "a boolean", other)),
            None => return Err(not("the decision object has no `allowed`".to_owned())),
        };
        let headers = get("headers").map_or(Ok(Pairs::new()), |value| header_pairs("headers", value))?;
        let metadata = match get("dynamic_metadata") {
            None => Vec::new(),
            Some(Value::Object(members)) => json_members(members, 0)?,
            Some(other) => return Err(wrong_type("dynamic_metadata", "an object", other)),
        };
        let grants = match (get("grants").map(|value| strings("grants", value)), grants_key) {
            (None, _) | (Some(Err(_)), GrantsKey::Foreign) => None,
            (Some(Ok(ids)), _) => Some(ids),
            (Some(Err(error)), GrantsKey::Binding) => return Err(error),
        };
        let lease = match (get("lease"), grants_key) {
            (Some(value), GrantsKey::Binding) if allowed => Some(lease(value)?),
            (Some(value), GrantsKey::Foreign) if allowed => lease(value).ok(),
            _ => None,
        };
        let strings_of = |name| get(name).map_or(Ok(Vec::new()), |value| strings(name, value));
        let outcome = if allowed {
            Outcome::Allow(Some(Mutations {
                headers,
                headers_to_remove: strings_of("request_headers_to_remove")?,
                response_headers_to_add: get("response_headers_to_add")
                    .map_or(Ok(Pairs::new()), |value| header_pairs("response_headers_to_add", value))?,
                query_parameters_to_remove: strings_of("query_parameters_to_remove")?,
                query_parameters_to_set: match get("query_parameters_to_set") {
                    None => Pairs::new(),
                    Some(Value::Object(members)) => object_pairs("query_parameters_to_set", members)?,
                    Some(other) => return Err(wrong_type("query_parameters_to_set", "an object", other)),
                },
            }))
        } else {
            let body = match get("body") {
                None => String::new(),
                Some(Value::String(body)) => body.to_string(),
                Some(other) => return Err(wrong_type("body", "a string", other)),
            };
            let status = get("http_status").map_or(Ok(DEFAULT_DENIED_STATUS), http_status)?;
            let http = Some(DeniedHttp { status, headers, body });
            Outcome::Deny { http, reason: deny_reason(get("reason")) }
        };
        Ok(Self { outcome, metadata, grants, lease })
    }
}

/// Only reasons that policy can know. Others, and keys a foreign policy happens to have, say no more than "denied".
fn deny_reason(value: Option<&Value>) -> DenyReason {
    const FROM_POLICY: [DenyReason; 4] =
        [DenyReason::NoGrant, DenyReason::NotCovered, DenyReason::Locked, DenyReason::PolicyDenied];
    match value {
        Some(Value::String(code)) => FROM_POLICY.into_iter().find(|reason| reason.code() == &**code),
        _ => None,
    }
    .unwrap_or(DenyReason::PolicyDenied)
}

/// Seconds. Less than a grant must have left would be no access at all, and 0 no limit to Envoy.
fn lease(value: &Value) -> Result<Duration, EvalError> {
    let Value::Number(number) = value else { return Err(wrong_type("lease", "a number of seconds", value)) };
    number
        .as_f64()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|lease| *lease >= MIN_REMAINING)
        .ok_or_else(|| not(format!("`lease` must be at least {} seconds", MIN_REMAINING.as_secs_f64())))
}

fn http_status(value: &Value) -> Result<u16, EvalError> {
    let Value::Number(number) = value else { return Err(wrong_type("http_status", "a number", value)) };
    number
        .as_i64()
        .filter(|status| HTTP_STATUSES.iter().any(|range| range.contains(status)))
        .and_then(|status| u16::try_from(status).ok())
        .ok_or_else(|| {
            not(format!("`http_status` {} is not a status Envoy can answer", number.format_decimal()))
        })
}

fn header_pairs(name: &'static str, value: &Value) -> Result<Pairs, EvalError> {
    let list_item = |item: &Value, pairs: &mut Pairs| match item {
        Value::Object(members) => object_pairs(name, members).map(|found| pairs.extend(found)),
        other => Err(wrong_type(name, "a list of objects", other)),
    };
    let mut pairs = Pairs::new();
    match value {
        Value::Object(members) => return object_pairs(name, members),
        Value::Array(items) => items.iter().try_for_each(|item| list_item(item, &mut pairs))?,
        Value::Set(items) => items.iter().try_for_each(|item| list_item(item, &mut pairs))?,
        other => return Err(wrong_type(name, "an object or a list of objects", other)),
    }
    Ok(pairs)
}

fn object_pairs(name: &'static str, members: &Object) -> Result<Pairs, EvalError> {
    let mut pairs = Pairs::with_capacity(members.len());
    let is_unsendable = |text: &str| text.contains(['\r', '\n', '\0']);
    for (key, value) in members.iter_sorted() {
        let key = key_text(key)?;
        match value {
            Value::String(text) => pairs.push((key, text.to_string())),
            Value::Array(_) | Value::Set(_) => {
                pairs.extend(strings(name, value)?.into_iter().map(|text| (key.clone(), text)));
            }
            other => return Err(wrong_type(name, "strings or lists of strings as values", other)),
        }
    }
    if pairs.iter().any(|(key, value)| is_unsendable(key) || is_unsendable(value)) {
        return Err(not(format!("`{name}` holds a line break or a NUL")));
    }
    Ok(pairs)
}

fn strings(name: &'static str, value: &Value) -> Result<Vec<String>, EvalError> {
    let text = |item: &Value| match item {
        Value::String(text) => Ok(text.to_string()),
        other => Err(wrong_type(name, "a list of strings", other)),
    };
    match value {
        Value::Array(items) => items.iter().map(text).collect(),
        Value::Set(items) => items.iter().map(text).collect(),
        other => Err(wrong_type(name, "a list of strings", other)),
    }
}

fn json_members(members: &Object, depth: usize) -> Result<Vec<(String, Json)>, EvalError> {
    members.iter_sorted().map(|(key, value)| Ok((key_text(key)?, json(value, depth + 1)?))).collect()
}

fn json(value: &Value, depth: usize) -> Result<Json, EvalError> {
    if depth > MAX_METADATA_DEPTH {
        return Err(not(format!("`dynamic_metadata` nests deeper than {MAX_METADATA_DEPTH} levels")));
    }
    Ok(match value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Number(number) => Json::Number(
            number.as_f64().ok_or_else(|| not("`dynamic_metadata` has a number too large".to_owned()))?,
        ),
        Value::String(text) => Json::String(text.to_string()),
        Value::Array(items) => {
            Json::List(items.iter().map(|item| json(item, depth + 1)).collect::<Result<_, _>>()?)
        }
        Value::Set(items) => {
            Json::List(items.iter_sorted().map(|item| json(item, depth + 1)).collect::<Result<_, _>>()?)
        }
        Value::Object(members) => Json::Object(json_members(members, depth)?),
        Value::Undefined => return Err(not("`dynamic_metadata` holds an undefined value".to_owned())),
    })
}

/// Keys that are not strings become JSON text, as they do in OPA.
fn key_text(key: &Value) -> Result<String, EvalError> {
    match key {
        Value::String(text) => Ok(text.to_string()),
        other => other.to_json_str().map_err(|error| not(error.to_string())),
    }
}

fn not(message: String) -> EvalError {
    EvalError::NotADecision(message)
}

fn wrong_type(name: &str, expected: &str, found: &Value) -> EvalError {
    not(format!("`{name}` must be {expected}, not {}", type_name(found)))
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Set(_) => "a set",
        Value::Object(_) => "an object",
        Value::Undefined => "undefined",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ruling(json: &str) -> Result<Ruling, EvalError> {
        Ruling::from_value(&Value::from_json_str(json).unwrap(), GrantsKey::Binding)
    }

    #[test]
    fn grants_and_reason_are_ours() {
        let allow = ruling(r#"{"allowed": true, "grants": ["a", "b"]}"#).unwrap();
        assert_eq!(allow.grants, Some(vec!["a".to_owned(), "b".to_owned()]));
        assert!(ruling(r#"{"allowed": true, "grants": "a"}"#).is_err());
        let foreign = Value::from_json_str(r#"{"allowed": true, "grants": 7}"#).unwrap();
        assert_eq!(Ruling::from_value(&foreign, GrantsKey::Foreign).unwrap().grants, None);
        for (json, reason) in [
            (r#"{"allowed": false, "reason": "no_grant"}"#, DenyReason::NoGrant),
            (r#"{"allowed": false, "reason": "stale"}"#, DenyReason::PolicyDenied),
            (r#"{"allowed": false, "reason": 7}"#, DenyReason::PolicyDenied),
        ] {
            let Outcome::Deny { reason: found, .. } = ruling(json).unwrap().outcome else { panic!("{json}") };
            assert_eq!(found, reason, "{json}");
        }
    }

    #[test]
    fn a_lease_is_a_number_of_seconds() {
        let lease = |json: &str| ruling(json).map(|ruling| ruling.lease);
        assert_eq!(lease(r#"{"allowed": true, "lease": 1.5}"#), Ok(Some(Duration::from_millis(1500))));
        assert_eq!(lease(r#"{"allowed": true}"#), Ok(None));
        assert_eq!(lease(r#"{"allowed": false, "lease": "x"}"#), Ok(None));
        for bad in ["0", "-1", "0.09", "1e300", "\"5m\"", "null", "true"] {
            assert!(lease(&format!("{{\"allowed\": true, \"lease\": {bad}}}")).is_err(), "{bad}");
        }
        let foreign = Value::from_json_str(r#"{"allowed": true, "lease": "x"}"#).unwrap();
        assert_eq!(Ruling::from_value(&foreign, GrantsKey::Foreign).unwrap().lease, None);
        let foreign = Value::from_json_str(r#"{"allowed": true, "lease": 2}"#).unwrap();
        let lease = Ruling::from_value(&foreign, GrantsKey::Foreign).unwrap().lease;
        assert_eq!(lease, Some(Duration::from_secs(2)), "policies that rest on no grant need not name them");
    }

    #[test]
    fn a_wrong_type_is_an_error_only_where_the_key_has_a_meaning() {
        for good in [
            r#"{"allowed": true, "http_status": "x", "body": 1}"#,
            r#"{"allowed": false, "request_headers_to_remove": 1}"#,
        ] {
            assert!(ruling(good).is_ok(), "{good}");
        }
        for bad in [
            "1",
            "null",
            "[true]",
            "{}",
            r#"{"allowed": "true"}"#,
            r#"{"allowed": false, "headers": {"a": null}}"#,
            r#"{"allowed": false, "http_status": 418}"#,
            r#"{"allowed": false, "http_status": 403.5}"#,
            r#"{"allowed": false, "body": {}}"#,
            r#"{"allowed": true, "query_parameters_to_set": [{"a": "1"}]}"#,
            r#"{"allowed": true, "dynamic_metadata": null}"#,
            r#"{"allowed": false, "headers": {"a": "b\nc"}}"#,
            &format!(
                r#"{{"allowed": false, "dynamic_metadata": {{"x": {}{}}}}}"#,
                "[".repeat(40),
                "]".repeat(40)
            ),
        ] {
            assert!(ruling(bad).is_err(), "{bad}");
        }
    }
}
