//! The end of a grant: the header that carries it, and what can lose it, outlast it or begin it anew.

use std::time::Duration;

use super::authz_filter::full_match;
use super::codes::Code;
use super::http::Http;
use super::identity::touches;
use super::model::{EXT_AUTHZ, Filter, http_options};
use super::node::Node;
use super::report::Report;
use super::routes::{Runs, Target};
use super::watch;

const STREAM_DURATION: &str = "x-envoy-upstream-stream-duration-ms";
const MAX_RETRIES: &str = "x-envoy-max-retries";
/// With less left, daypass switches retries off itself (`stream.retry_horizon`).
const RETRY_HORIZON: Duration = Duration::from_secs(60);

pub fn examine(http: &Http<'_>, report: &mut Report) {
    for filter in http.filters.iter().filter(|filter| filter.is(EXT_AUTHZ)) {
        let rules = filter.fields.get("decoder_header_mutation_rules");
        let place = http.place.filter(&filter.name, filter.line).at(rules.line());
        if rules.is_set() && !allows(rules, STREAM_DURATION) {
            report.add(Code::DeadlineDropped, &place, "decoder_header_mutation_rules does not allow it");
        }
        if rules.is_set() && !allows(rules, MAX_RETRIES) {
            report.add(Code::MaxRetriesDropped, &place, "decoder_header_mutation_rules does not allow it");
        }
    }
    removed_by_filters(http, report);
    removed_by_routes(http, report);
    let caps_all = http.fields.at(&["common_http_protocol_options", "max_stream_duration"]);
    let is_capped = |target: &Target| {
        let own = target.route.at(&["route", "max_stream_duration", "max_stream_duration"]);
        // A route's 0 lifts the listener's cap.
        let cap = if own.is_set() { own } else { caps_all };
        cap.duration().is_some_and(|cap| !cap.is_zero())
    };
    let checked: Vec<&Target> =
        http.routes.targets.iter().filter(|target| is_checked(http, target)).collect();
    if checked.iter().any(|target| !is_capped(target)) {
        report.add(Code::NoStreamCap, &http.place, "max_stream_duration is not set");
    }
    for target in checked {
        retries(http, target, report);
        if target.policy("hedge_policy").is_set() {
            report.add(Code::Hedging, &target.place, "");
        }
        if let Some(cluster) = http.model.clusters.get(&target.upstream) {
            let cap = http_options(cluster).at(&["common_http_protocol_options", "max_stream_duration"]);
            let place = super::report::Place::cluster(&target.upstream, cluster.line()).at(cap.line());
            if cap.is_set() {
                report.add(Code::ClusterStreamCap, &place, "");
            }
        }
    }
}

fn is_checked(http: &Http<'_>, target: &Target) -> bool {
    let checks = http.filters.iter().filter(|filter| filter.may_be_ext_authz());
    checks.into_iter().any(|filter| target.runs(filter) == Runs::Yes)
}

/// Envoy's rules for a header that begins with x-envoy-. A regular expression that cannot be read allows.
fn allows(rules: &Node, header: &str) -> bool {
    let matches = |name: &str| {
        let regex = rules.at(&[name, "regex"]);
        regex.is_set().then(|| full_match(regex.text(), header).unwrap_or(name == "allow_expression"))
    };
    if matches("disallow_expression") == Some(true) {
        return false;
    }
    matches("allow_expression") == Some(true)
        || rules.get("allow_envoy").is_true() && !rules.get("disallow_all").is_true()
}

fn removed_by_filters(http: &Http<'_>, report: &mut Report) {
    let last = http.filters.iter().rposition(Filter::may_be_ext_authz).unwrap_or(0);
    for filter in http.filters.iter().skip(last + 1) {
        let mutations = filter.fields.at(&["mutations", "request_mutations"]).items();
        let mutates = filter.message.ends_with("header_mutation.v3.HeaderMutation")
            && touches(mutations, STREAM_DURATION);
        let is_script = filter.message.ends_with("lua.v3.Lua")
            && filter.fields.any_text(&|text| text.contains(STREAM_DURATION));
        if mutates || is_script {
            report.add(Code::DeadlineRemoved, &http.place.filter(&filter.name, filter.line), "by a filter");
        }
    }
}

fn removed_by_routes(http: &Http<'_>, report: &mut Report) {
    for config in &http.routes.configs {
        if changes(config) {
            report.add(Code::DeadlineRemoved, &http.place.at(config.line()), "by the route configuration");
        }
    }
    for (place, host) in &http.routes.virtual_hosts {
        if changes(host) {
            report.add(Code::DeadlineRemoved, place, "by the virtual host");
        }
    }
    for target in &http.routes.targets {
        if changes(&target.route) || changes(target.route.get("route")) {
            report.add(Code::DeadlineRemoved, &target.place, "by the route");
        }
    }
}

fn changes(level: &Node) -> bool {
    let is_it = |name: &str| name.eq_ignore_ascii_case(STREAM_DURATION);
    let mut removed = level.get("request_headers_to_remove").items().iter().map(Node::text);
    let mut added =
        level.get("request_headers_to_add").items().iter().map(|item| item.at(&["header", "key"]).text());
    removed.any(is_it) || added.any(is_it)
}

/// Each attempt has the whole deadline. daypass switches retries off when little is left, so what matters is an attempt that
/// may take longer than that.
fn retries(http: &Http<'_>, target: &Target, report: &mut Report) {
    let policy = target.policy("retry_policy");
    let retries = policy.get("num_retries").number().unwrap_or(1.0) > 0.0;
    if policy.get("retry_on").text().is_empty() || !retries {
        return;
    }
    let is_watched = http
        .filters
        .iter()
        .any(|filter| watch::is_watch(&http.filters, filter) && target.runs(filter) == Runs::Yes);
    let timeout = target.route.at(&["route", "timeout"]);
    // 15 s if nothing is said; 0 is no end.
    let is_long = timeout.is_set()
        && timeout.duration().is_none_or(|timeout| timeout.is_zero() || timeout > RETRY_HORIZON);
    if is_long && !is_watched {
        let what = format!("retry_on: {}, timeout: {}", policy.get("retry_on").text(), timeout.text());
        report.add(Code::RetryOutlives, &target.place.at(policy.line()), what);
    }
}
