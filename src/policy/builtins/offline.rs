//! Functions that no decision may call, for queries and tests of policies: there they can be replaced by `with`, and
//! fail where they are not. Never talks to a network.

use std::time::Duration;

use regorus::Value;

use super::{Builtin, Fault, Outcome, text, time, unary};

pub const BUILTINS: [Builtin; 2] = [unary("http.send", http_send), unary("test.sleep", sleep)];

/// Members of a request that OPA knows.
const REQUEST_KEYS: [&str; 28] = [
    "method",
    "url",
    "body",
    "enable_redirect",
    "force_json_decode",
    "force_yaml_decode",
    "headers",
    "raw_body",
    "tls_use_system_certs",
    "tls_ca_cert",
    "tls_ca_cert_file",
    "tls_ca_cert_env_variable",
    "tls_client_cert",
    "tls_client_cert_file",
    "tls_client_cert_env_variable",
    "tls_client_key",
    "tls_client_key_file",
    "tls_client_key_env_variable",
    "tls_insecure_skip_verify",
    "tls_server_name",
    "timeout",
    "cache",
    "force_cache",
    "force_cache_duration_seconds",
    "raise_error",
    "caching_mode",
    "max_retry_attempts",
    "cache_ignored_headers",
];

/// Longest sleep: a test of a policy has no reason for more.
const MAX_SLEEP: Duration = Duration::from_secs(1);

fn http_send(request: &Value) -> Outcome {
    let members = request.as_object().map_err(|_| Fault::operand(1, "object", request))?;
    let unknown: Vec<String> = members
        .iter()
        .map(|(key, _)| key)
        .filter(|key| !matches!(key, Value::String(name) if REQUEST_KEYS.contains(&name.as_ref())))
        .map(ToString::to_string)
        .collect();
    if !unknown.is_empty() {
        return Err(Fault::Type(format!("invalid request parameters(s): {{{}}}", unknown.join(", "))));
    }
    Err(Fault::failed("no network calls here; replace it by `with http.send as ...`"))
}

fn sleep(duration: &Value) -> Outcome {
    let text = text(1, duration)?;
    let nanoseconds = time::duration::parse(text).map_err(Fault::failed)?;
    let wanted = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0));
    if wanted > MAX_SLEEP {
        return Err(Fault::failed(format!("longer than {MAX_SLEEP:?}")));
    }
    std::thread::sleep(wanted);
    Ok(Value::Null)
}
