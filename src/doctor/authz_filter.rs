//! What is said in an ext_authz filter itself, of connections or of requests.

use std::time::Duration;

use super::cluster;
use super::codes::Code;
use super::model::{EXT_AUTHZ, Filter, JWT, Model, NETWORK_EXT_AUTHZ};
use super::node::Node;
use super::report::{Place, Report};
use super::routes::{Routes, Runs, check_settings};

/// A check that takes longer holds every request for as long.
const LONG_TIMEOUT: Duration = Duration::from_secs(1);
/// What daypass takes at most, by default.
const CHECK_TIMEOUT: Duration = Duration::from_millis(150);
/// How many policies a finding names.
const MAX_NAMES: usize = 3;

/// Findings of HTTP and network filters alike.
pub fn common(model: &Model, before: &[Filter], filter: &Filter, place: &Place, report: &mut Report) {
    let fields = &filter.fields;
    if fields.get("failure_mode_allow").is_true() {
        let line = fields.get("failure_mode_allow").line();
        report.add(Code::FailureModeAllow, &place.at(line), "failure_mode_allow: true");
    }
    if fields.get("shadow_mode").is_true() {
        report.add(Code::ShadowMode, &place.at(fields.get("shadow_mode").line()), "shadow_mode: true");
    }
    if fields.get("filter_enabled_metadata").is_set() {
        by_metadata(before, fields.get("filter_enabled_metadata"), place, report);
    }
    if filter.is_conditional || filter.is_composite() {
        report.add(Code::ConditionalCheck, place, "");
    }
    if filter.is(EXT_AUTHZ) || filter.is(NETWORK_EXT_AUTHZ) {
        service(model, fields, place, report);
    }
}

/// Findings of filters of requests.
pub fn http(filter: &Filter, all: &[Filter], routes: &Routes, place: &Place, report: &mut Report) {
    let fields = &filter.fields;
    if !filter.is(EXT_AUTHZ) {
        return;
    }
    enabled(fields, place, report);
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

fn enabled(fields: &Node, place: &Place, report: &mut Report) {
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
    let denies = fields.at(&["deny_at_disable", "default_value"]).is_true();
    if part < whole && !denies {
        report.add(Code::EnabledFraction, &place, format!("filter_enabled is {part} of {whole}"));
    }
    let key = enabled.get("runtime_key").text();
    if !key.is_empty() && !denies {
        report.add(Code::RuntimeSwitch, &place, format!("filter_enabled has runtime_key {key}"));
    }
}

/// A mesh marks what its policies want to have checked with rules that only shadow.
fn by_metadata(before: &[Filter], matcher: &Node, place: &Place, report: &mut Report) {
    let place = place.at(matcher.line());
    let key = matcher.get("path").items().first().map_or("", |part| part.get("key").text());
    let prefix = matcher.at(&["value", "string_match", "prefix"]).text();
    let rules = before.iter().rev().find(|filter| {
        let stat = filter.fields.get("shadow_rules_stat_prefix").text();
        filter.message.ends_with("rbac.v3.RBAC")
            && !filter.is_conditional
            && filter.fields.get("shadow_rules").is_set()
            && key == format!("{stat}shadow_effective_policy_id")
    });
    let Some(rules) = rules.filter(|_| !matcher.get("invert").is_true()) else {
        report.add(Code::EnabledByMetadata, &place, format!("filter_enabled_metadata wants {key}"));
        return;
    };
    let policies = rules.fields.at(&["shadow_rules", "policies"]).members();
    let policies: Vec<_> = policies.iter().filter(|(name, _)| name.starts_with(prefix)).collect();
    if policies.iter().any(|(_, policy)| matches_all(policy)) {
        report.add(Code::CheckedByAllRules, &place, "");
        return;
    }
    let names: Vec<&str> = policies.iter().take(MAX_NAMES).map(|(name, _)| name.as_str()).collect();
    let more = policies.len().saturating_sub(MAX_NAMES);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let what = if names.is_empty() {
        "no policy marks anything".to_owned()
    } else {
        format!("checked is what these rules match: {}{more}", names.join(", "))
    };
    report.add(Code::CheckedByRules, &place, what);
}

fn matches_all(policy: &Node) -> bool {
    let any = |list: &Node| list.items().iter().any(is_any);
    let has_condition = policy.get("condition").is_set() || policy.get("checked_condition").is_set();
    any(policy.get("permissions")) && any(policy.get("principals")) && !has_condition
}

fn is_any(rule: &Node) -> bool {
    let lists = |name: &str, list: &str| rule.at(&[name, list]).items();
    let all = [lists("and_rules", "rules"), lists("and_ids", "ids")];
    let some = [lists("or_rules", "rules"), lists("or_ids", "ids")];
    rule.get("any").is_true()
        || all.iter().any(|list| !list.is_empty() && list.iter().all(is_any))
        || some.iter().any(|list| list.iter().any(is_any))
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
