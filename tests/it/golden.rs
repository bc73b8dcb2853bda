//! The answers a running OPA-Envoy gave, case by case, over a real gRPC connection.
//!
//! Differences that are daypass' own are named here and nowhere else; any other one fails.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use data_encoding::BASE64;
use envoy_types::pb::envoy::config::core::v3::HeaderValueOption;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value as ProtoValue};
use prost::Message;
use serde_json::{Map, Value, json};

use crate::support::daypass::{Daypass, write_file};
use crate::support::shared;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_as_opa_envoy_does() {
    let Some(path) = shared("ext-authz-golden/cases.json") else { return };
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    // Cases of one policy share a server; starting one per case would be most of the time.
    let mut groups: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for case in &cases {
        groups
            .entry(format!("{} {}", case["policy"], case.get("config").unwrap_or(&Value::Null)))
            .or_default()
            .push(case);
    }
    let (mut passed, mut failures) = (0, String::new());
    for group in groups.values() {
        for (case, result) in run_group(group).await {
            match result {
                Verdict::Same => passed += 1,
                Verdict::Different(how) => writeln!(failures, "{case}: {how}").unwrap(),
            }
        }
    }
    println!("{passed} of {} cases as recorded", cases.len());
    assert!(failures.is_empty(), "{failures}");
    assert_eq!(passed, cases.len());
}

enum Verdict {
    Same,
    Different(String),
}

async fn run_group(group: &[&Value]) -> Vec<(String, Verdict)> {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let policy_text = group[0]["policy"].as_str().unwrap();
    let policy = write_file(dir.path(), "policy.rego", policy_text);
    let config = group[0].get("config").cloned().unwrap_or(json!({}));
    let mut args = vec!["--policy", &policy];
    for (name, value) in config.as_object().unwrap() {
        match (name.as_str(), value) {
            ("path", Value::String(path)) => args.extend(["--decision", path]),
            ("dry-run", Value::Bool(true)) => args.push("--dry-run"),
            ("skip-request-body-parse", Value::Bool(true)) => args.push("--skip-request-body-parse"),
            other => panic!("a setting this test does not know: {other:?}"),
        }
    }
    let server = Daypass::try_start(&dir, &args);
    let mut results = Vec::new();
    for case in group {
        let name = case["name"].as_str().unwrap().to_owned();
        let expected = &case["expect"];
        let result = match &server {
            Err(_) if expected["startup"] == "refused" => Verdict::Same,
            Err(log) => Verdict::Different(format!("does not start: {log}")),
            Ok(_) if expected["startup"] == "refused" => Verdict::Different("starts".to_owned()),
            Ok(server) => {
                let bytes = BASE64.decode(case["request_b64"].as_str().unwrap().as_bytes()).unwrap();
                let response = server.client().await.check(CheckRequest::decode(&bytes[..]).unwrap()).await;
                compare(expected, &response, policy_text)
            }
        };
        results.push((name, result));
    }
    results
}

fn compare(expected: &Value, response: &CheckResponse, policy: &str) -> Verdict {
    let found = response_json(response);
    if expected["grpc_code"] == "UNKNOWN" {
        let is_denial = found["status"]["code"].as_i64().is_some_and(|code| code != 0);
        let status = found["deniedResponse"]["status"]["code"].as_i64().unwrap_or(0);
        return if is_denial && status >= 500 {
            Verdict::Same
        } else {
            Verdict::Different(format!("not a 5xx denial: {found}"))
        };
    }
    let (expected, found) = (normal(&expected["response"], policy), normal(&found, policy));
    if expected == found {
        Verdict::Same
    } else {
        Verdict::Different(format!("\n  recorded {expected}\n  found    {found}"))
    }
}

/// Takes out what may differ.
fn normal(response: &Value, policy: &str) -> Value {
    let mut response = response.clone();
    let members = response.as_object_mut().unwrap();
    for (_, part) in members.iter_mut() {
        if let Some(status) = part.get_mut("status").and_then(|status| status.get_mut("code")) {
            *status = status_number(status);
        }
        if let Some(body) = part.get_mut("body") {
            *body = normal_body(body.as_str().unwrap(), policy);
        }
        for (_, list) in part.as_object_mut().into_iter().flatten() {
            sort_headers(list);
        }
    }
    if let Some(Value::String(message)) =
        members.get_mut("status").and_then(|status| status.get_mut("message"))
    {
        *message = without_wording(message);
    }
    if let Some(Value::String(id)) =
        members.get_mut("dynamicMetadata").and_then(|found| found.get_mut("decision_id"))
        && id.len() == 36
    {
        "<uuid>".clone_into(id);
    }
    response
}

fn normal_body(body: &str, policy: &str) -> Value {
    if body.starts_with("request_parse_error:") {
        return without_wording(body).into();
    }
    let Ok(mut parsed) = serde_json::from_str::<Value>(body) else { return body.into() };
    if policy.contains("json.marshal(input)")
        && let Some(members) = parsed.as_object_mut()
    {
        members.remove("jit");
    }
    numbers_as_values(parsed)
}

/// 1e3, 1000 and 1000.0 are one number.
fn numbers_as_values(value: Value) -> Value {
    match value {
        Value::Number(number) => format!("number {}", number.as_f64().unwrap()).into(),
        Value::Array(items) => Value::Array(items.into_iter().map(numbers_as_values).collect()),
        Value::Object(members) => {
            Value::Object(members.into_iter().map(|(name, value)| (name, numbers_as_values(value))).collect())
        }
        other => other,
    }
}

fn without_wording(text: &str) -> String {
    text.split_once(':').map_or(text, |(code, _)| code).to_owned()
}

/// OPA-Envoy's order between names is random; that between values of one name is not.
fn sort_headers(list: &mut Value) {
    if let Value::Array(items) = list {
        items.sort_by_key(|item| {
            item["header"]["key"].as_str().or(item["key"].as_str()).unwrap_or_default().to_owned()
        });
    }
}

/// The recorded answers name statuses, as protobuf's JSON mapping does.
fn status_number(status: &Value) -> Value {
    let names: [(&str, i64); 12] = [
        ("MovedPermanently", 301),
        ("BadRequest", 400),
        ("Unauthorized", 401),
        ("PaymentRequired", 402),
        ("Forbidden", 403),
        ("NotFound", 404),
        ("TooManyRequests", 429),
        ("InternalServerError", 500),
        ("ServiceUnavailable", 503),
        ("NetworkAuthenticationRequired", 511),
        ("Found", 302),
        ("OK", 200),
    ];
    match status.as_str() {
        Some(name) => {
            let known = names.iter().find(|(known, _)| *known == name).map(|(_, number)| (*number).into());
            known.or_else(|| envoy_status(name)).unwrap_or_else(|| panic!("unknown status {name}"))
        }
        None => status.clone(),
    }
}

fn envoy_status(name: &str) -> Option<Value> {
    use envoy_types::pb::envoy::r#type::v3::StatusCode;
    StatusCode::from_str_name(name).map(|code| i64::from(code as i32).into())
}

/// A CheckResponse in protobuf's JSON mapping, as far as daypass can produce one. Fails on what it cannot.
fn response_json(response: &CheckResponse) -> Value {
    let CheckResponse { status, dynamic_metadata, http_response } = response;
    let status = status.as_ref().expect("a response without a status is an allow to Envoy");
    let mut members = Map::new();
    let mut status_members = Map::new();
    if status.code != 0 {
        status_members.insert("code".to_owned(), status.code.into());
    }
    if !status.message.is_empty() {
        status_members.insert("message".to_owned(), status.message.clone().into());
    }
    members.insert("status".to_owned(), Value::Object(status_members));
    if let Some(metadata) = dynamic_metadata {
        members.insert("dynamicMetadata".to_owned(), struct_json(metadata));
    }
    match http_response {
        Some(HttpResponse::OkResponse(ok)) => {
            let mut part = Map::new();
            let mut set = |name: &str, items: Vec<Value>| {
                if !items.is_empty() {
                    part.insert(name.to_owned(), Value::Array(items));
                }
            };
            set("headers", ok.headers.iter().map(header_json).collect());
            set("headersToRemove", ok.headers_to_remove.iter().map(|name| name.clone().into()).collect());
            set("responseHeadersToAdd", ok.response_headers_to_add.iter().map(header_json).collect());
            let parameter = |found: &envoy_types::pb::envoy::config::core::v3::QueryParameter| json!({"key": found.key, "value": found.value});
            set("queryParametersToSet", ok.query_parameters_to_set.iter().map(parameter).collect());
            set(
                "queryParametersToRemove",
                ok.query_parameters_to_remove.iter().map(|name| name.clone().into()).collect(),
            );
            members.insert("okResponse".to_owned(), Value::Object(part));
        }
        Some(HttpResponse::DeniedResponse(denied)) => {
            let mut part = Map::new();
            part.insert("status".to_owned(), json!({"code": denied.status.as_ref().expect("a status").code}));
            if !denied.headers.is_empty() {
                part.insert("headers".to_owned(), denied.headers.iter().map(header_json).collect());
            }
            if !denied.body.is_empty() {
                part.insert("body".to_owned(), denied.body.clone().into());
            }
            members.insert("deniedResponse".to_owned(), Value::Object(part));
        }
        Some(HttpResponse::ErrorResponse(_)) => panic!("an error_response obeys failure_mode_allow"),
        None => {}
    }
    Value::Object(members)
}

/// Without `append` and `append_action`, which OPA-Envoy does not set.
fn header_json(option: &HeaderValueOption) -> Value {
    let header = option.header.as_ref().unwrap();
    let mut members = Map::from_iter([("key".to_owned(), Value::from(header.key.clone()))]);
    if !header.value.is_empty() {
        members.insert("value".to_owned(), header.value.clone().into());
    }
    json!({"header": members})
}

fn struct_json(found: &Struct) -> Value {
    Value::Object(found.fields.iter().map(|(name, value)| (name.clone(), proto_json(value))).collect())
}

fn proto_json(value: &ProtoValue) -> Value {
    match value.kind.as_ref().unwrap() {
        Kind::NullValue(_) => Value::Null,
        Kind::NumberValue(number) => numbers_as_values(json!(number)),
        Kind::StringValue(text) => text.clone().into(),
        Kind::BoolValue(value) => (*value).into(),
        Kind::StructValue(found) => struct_json(found),
        Kind::ListValue(list) => list.values.iter().map(proto_json).collect(),
    }
}
