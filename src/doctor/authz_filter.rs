//! What is said in an ext_authz filter itself, of connections or of requests.

use std::time::Duration;

use super::codes::Code;
use super::model::{EXT_AUTHZ, Filter, JWT, Model, NETWORK_EXT_AUTHZ};
use super::node::Node;
use super::report::{Place, Report};
use super::routes::{Routes, Runs, check_settings};
use super::{cluster, marks};

/// A check that takes longer holds every request for as long.
const LONG_TIMEOUT: Duration = Duration::from_secs(1);
/// What daypass takes at most, by default.
const CHECK_TIMEOUT: Duration = Duration::from_millis(150);

/// What stands before a check, and where requests go behind it.
pub struct Before<'a> {
    pub filters: &'a [Filter],
    pub routes: &'a Routes,
    pub guard: Option<&'a Filter>,
}

/// Findings of HTTP and network filters alike.
pub fn common(model: &Model, before: &Before<'_>, filter: &Filter, place: &Place, report: &mut Report) {
    let fields = &filter.fields;
    if fields.get("failure_mode_allow").is_true() {
        let line = fields.get("failure_mode_allow").line();
        report.add(Code::FailureModeAllow, &place.at(line), "failure_mode_allow: true");
    }
    if fields.get("shadow_mode").is_true() {
        report.add(Code::ShadowMode, &place.at(fields.get("shadow_mode").line()), "shadow_mode: true");
    }
    if fields.get("filter_enabled_metadata").is_set() {
        marks::examine(before, fields.get("filter_enabled_metadata"), filter, place, report);
    }
    if filter.is_conditional || filter.is_composite() {
        report.add(Code::ConditionalCheck, place, "");
    }
    if filter.is(EXT_AUTHZ) || filter.is(NETWORK_EXT_AUTHZ) {
        service(model, fields, place, report);
    }
}

/// Findings of filters of requests.
pub fn http(
    model: &Model,
    filter: &Filter,
    all: &[Filter],
    routes: &Routes,
    place: &Place,
    report: &mut Report,
) {
    let fields = &filter.fields;
    if !filter.is(EXT_AUTHZ) {
        return;
    }
    enabled(model, fields, place, report);
    if fields.get("clear_route_cache").is_true() {
        let line = fields.get("clear_route_cache").line();
        report.add(Code::ClearRouteCache, &place.at(line), "clear_route_cache: true");
    }
    let status = fields.at(&["status_on_error", "code"]);
    if !status.is_set() || status.is_value("Forbidden", 403) || status.is_value("Empty", 0) {
        report.add(Code::StatusOnError, &place.at(status.line()), "");
    }
    if !fields.get("validate_mutations").is_true() {
        report.add(Code::ValidateMutations, place, "");
    }
    // Where nothing verifies tokens before, policies may want to do it.
    let has_tokens = all.iter().any(|filter| filter.is(JWT));
    if has_tokens && (sends(fields, "authorization") || sends(fields, "cookie")) {
        report.add(Code::SecretsSent, place, "");
    }
    body(filter, routes, place, report);
    for target in &routes.targets {
        let own = check_settings(target, filter);
        let other =
            ["grpc_service", "http_service"].map(|name| own.get(name)).into_iter().find(|own| own.is_set());
        if let Some(other) = other
            && cluster_name(other) != cluster_name(fields.get("grpc_service"))
        {
            report.add(
                Code::OverrideService,
                &target.place.at(other.line()),
                format!("{} instead of {}", cluster_name(other), cluster_name(fields.get("grpc_service"))),
            );
        }
    }
}

fn enabled(model: &Model, fields: &Node, place: &Place, report: &mut Report) {
    let enabled = fields.get("filter_enabled");
    if !enabled.is_set() {
        return;
    }
    let place = place.at(enabled.line());
    let default = enabled.get("default_value");
    let of = default.get("denominator");
    let whole = if of.is_value("TEN_THOUSAND", 1) {
        10_000.0
    } else if of.is_value("MILLION", 2) {
        1_000_000.0
    } else {
        100.0
    };
    let part = default.get("numerator").number().unwrap_or(0.0);
    let key = enabled.get("runtime_key").text();
    // A plain number at runtime is of a hundred.
    let (part, whole) = model.runtime(key).and_then(Node::number).map_or((part, whole), |part| (part, 100.0));
    let deny = fields.get("deny_at_disable");
    let denies = deny.get("default_value").is_true();
    let deny_key = deny.get("runtime_key").text();
    let denies = model.runtime(deny_key).and_then(Node::flag).unwrap_or(denies);
    if part < whole && !denies {
        report.add(Code::EnabledFraction, &place, format!("filter_enabled is {part} of {whole}"));
    }
    if !key.is_empty() && !denies {
        report.add(Code::RuntimeSwitch, &place, format!("filter_enabled has runtime_key {key}"));
    } else if !key.is_empty() && !deny_key.is_empty() {
        let what = format!("filter_enabled has runtime_key {key}, and deny_at_disable {deny_key}");
        report.add(Code::RuntimeSwitch, &place, what);
    }
}

/// Who is asked, and for how long.
fn service(model: &Model, fields: &Node, place: &Place, report: &mut Report) {
    let grpc = fields.get("grpc_service");
    let http = fields.get("http_service");
    if http.is_set() {
        report.add(
            Code::HttpService,
            &place.at(http.line()),
            format!("http_service: {}", cluster_name(http)),
        );
        timeout(http.at(&["server_uri", "timeout"]), place, report);
        return;
    }
    timeout(grpc.get("timeout"), place, report);
    let retries = grpc.get("retry_policy");
    if retries.is_set() && !retries.get("retry_back_off").is_set() {
        report.add(Code::CheckRetries, &place.at(retries.line()), "");
    }
    let google = grpc.get("google_grpc");
    if google.is_set() {
        report.add(Code::GoogleGrpc, &place.at(google.line()), "");
        let target = google.get("target_uri").text();
        let is_local = ["unix:", "127.0.0.1", "localhost", "[::1]", "dns:///localhost", "ipv4:127.0.0.1"]
            .iter()
            .any(|local| target.starts_with(local));
        let credentials = google.get("channel_credentials");
        let is_safe = ["ssl_credentials", "google_default"].iter().any(|kind| credentials.get(kind).is_set());
        if !is_local && !is_safe {
            report.add(Code::AuthzCleartext, &place.at(google.line()), format!("target_uri: {target}"));
        }
        return;
    }
    cluster::asked(model, grpc, place, report);
}

fn timeout(node: &Node, place: &Place, report: &mut Report) {
    let place = place.at(node.line());
    match node.duration() {
        None => report.add(Code::TimeoutDefault, &place, ""),
        Some(Duration::ZERO) => report.add(Code::TimeoutLong, &place, "timeout: 0s is no limit at all"),
        Some(limit) if limit > LONG_TIMEOUT => {
            report.add(Code::TimeoutLong, &place, format!("timeout: {limit:?}"));
        }
        Some(limit) if limit <= CHECK_TIMEOUT => {
            report.add(Code::TimeoutShort, &place, format!("timeout: {limit:?}"));
        }
        Some(_) => {}
    }
}

fn cluster_name(service: &Node) -> String {
    let names = [
        service.at(&["envoy_grpc", "cluster_name"]),
        service.at(&["server_uri", "cluster"]),
        service.at(&["google_grpc", "target_uri"]),
    ];
    let name = names.into_iter().find(|name| name.is_set()).map_or("another service", Node::text);
    name.to_owned()
}

/// Whether a header of the client comes to daypass.
fn sends(fields: &Node, header: &str) -> bool {
    let names =
        |list: &str| fields.at(&[list, "patterns"]).items().iter().any(|matcher| names(matcher, header));
    let allowed = fields.get("allowed_headers");
    (!allowed.is_set() || names("allowed_headers")) && !names("disallowed_headers")
}

/// Whether a string matcher matches the name of a header.
pub fn names(matcher: &Node, header: &str) -> bool {
    let is = |kind: &str, matches: &dyn Fn(&str) -> bool| {
        let node = matcher.get(kind);
        node.is_set() && matches(&node.text().to_ascii_lowercase())
    };
    let regex = matcher.at(&["safe_regex", "regex"]);
    is("exact", &|text| text == header)
        || is("prefix", &|text| header.starts_with(text))
        || is("suffix", &|text| header.ends_with(text))
        || is("contains", &|text| header.contains(text))
        || regex.is_set() && full_match(regex.text(), header) == Some(true)
}

/// Envoy's regular expressions match the whole text. Those that cannot be read here match nothing we know of.
pub fn full_match(regex: &str, text: &str) -> Option<bool> {
    let built = regex::RegexBuilder::new(&format!("^(?:{regex})$")).size_limit(1 << 20).build();
    built.ok().map(|regex| regex.is_match(text))
}

fn body(filter: &Filter, routes: &Routes, place: &Place, report: &mut Report) {
    let common = filter.fields.get("with_request_body");
    let mut partial = common.get("allow_partial_message").is_true();
    let buffers = |own: &Node| {
        let is_off = own.get("disable_request_body_buffering").is_true();
        !is_off && (common.is_set() || own.get("with_request_body").is_set())
    };
    let is_run = |target: &&super::routes::Target| target.runs(filter) == Runs::Yes;
    if common.is_set() {
        let spared =
            routes.targets.iter().filter(is_run).any(|target| !buffers(check_settings(target, filter)));
        let all = if spared { "on routes that do not switch it off" } else { "on every route" };
        report.add(Code::BodyBuffered, &place.at(common.line()), format!("with_request_body {all}"));
    } else {
        for target in routes.targets.iter().filter(is_run) {
            let own = check_settings(target, filter);
            if buffers(own) {
                let own = own.get("with_request_body");
                partial |= own.get("allow_partial_message").is_true();
                report.add(Code::BodyBuffered, &target.place.at(own.line()), "with_request_body");
            }
        }
    }
    if partial {
        report.add(Code::BodyPartial, place, "allow_partial_message: true");
    }
}
