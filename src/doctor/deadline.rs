//! The end of a grant: the header that carries it, and what can lose it, outlast it or begin it anew.

use std::time::Duration;

use super::authz_filter::full_match;
use super::codes::Code;
use super::http::Http;
use super::identity::touches;
use super::model::{EXT_AUTHZ, Filter, http_options};
use super::node::{Node, Typed};
use super::report::Report;
use super::routes::{Runs, Target};
use super::{order, watch};

const STREAM_DURATION: &str = "x-envoy-upstream-stream-duration-ms";
const MAX_RETRIES: &str = "x-envoy-max-retries";
const REMOVED: [(Code, &str); 2] =
    [(Code::DeadlineRemoved, STREAM_DURATION), (Code::MaxRetriesRemoved, MAX_RETRIES)];
/// Retries before an upstream has anything.
const EARLY_RETRIES: [&str; 2] = ["connect-failure", "refused-stream"];
/// With less left, daypass switches retries off itself (`stream.retry_horizon`).
const RETRY_HORIZON: Duration = Duration::from_secs(60);

pub fn examine(http: &Http<'_>, report: &mut Report) {
    for filter in http.filters.iter().filter(|filter| filter.is(EXT_AUTHZ)) {
        let rules = filter.fields.get("decoder_header_mutation_rules");
        let place = http.place.filter(&filter.name, filter.line).at(rules.line());
        if rules.is_set() && !allows(rules, STREAM_DURATION) {
            report.add(Code::DeadlineDropped, &place, "decoder_header_mutation_rules does not allow it");
        }
        let prefix = &http.model.header_prefix;
        if !prefix.is_empty() && prefix != "x-envoy" {
            let what = format!("header_prefix: {prefix}, so Envoy looks for another header");
            report.add(Code::DeadlineDropped, &place, what);
        }
        if rules.is_set() && !allows(rules, MAX_RETRIES) {
            report.add(Code::MaxRetriesDropped, &place, "decoder_header_mutation_rules does not allow it");
        }
    }
    removed_by_filters(http, report);
    removed_by_routes(http, report);
    let caps_all = http.fields.at(&["common_http_protocol_options", "max_stream_duration"]);
    // A route's 0 lifts the listener's cap.
    let own =
        |target: &Target| target.route.at(&["route", "max_stream_duration", "max_stream_duration"]).clone();
    let cap = |target: &Target| Some(own(target)).filter(Node::is_set).unwrap_or_else(|| caps_all.clone());
    let is_capped = |target: &Target| cap(target).duration().is_some_and(|cap| !cap.is_zero());
    let checked: Vec<&Target> =
        http.routes.targets.iter().filter(|target| is_checked(http, target)).collect();
    if checked.iter().any(|target| !is_capped(target)) {
        report.add(Code::NoStreamCap, &http.place, "max_stream_duration is not set");
    }
    for target in checked {
        retries(http, target, &cap(target), report);
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
        for (code, header) in REMOVED {
            filter.outer.each_message(&mut |typed| {
                if loses(typed, header) {
                    report.add(code, &http.place.filter(&filter.name, filter.line), "by a filter");
                }
            });
        }
        for target in &http.routes.targets {
            let Some(own) = target.settings(filter) else { continue };
            for (code, header) in REMOVED {
                own.fields.each_message(&mut |typed| {
                    if loses(typed, header) {
                        report.add(code, &target.place, format!("by filter {}", filter.name));
                    }
                });
            }
        }
    }
}

/// Whether a filter's configuration, its own or a route's, changes a header.
fn loses(typed: Typed<'_>, header: &str) -> bool {
    let message = typed.name.rsplit("filters.http.").next().unwrap_or_default();
    match message {
        "header_mutation.v3.HeaderMutation" | "header_mutation.v3.HeaderMutationPerRoute" => {
            touches(typed.fields.at(&["mutations", "request_mutations"]).items(), header)
        }
        "lua.v3.Lua" | "lua.v3.LuaPerRoute" => {
            typed.fields.any_text(&|text| order::code(text).any(|line| line.contains(header)))
        }
        "header_to_metadata.v3.Config" => typed.fields.get("request_rules").items().iter().any(|rule| {
            rule.get("remove").is_true() && rule.get("header").text().eq_ignore_ascii_case(header)
        }),
        _ => false,
    }
}

fn removed_by_routes(http: &Http<'_>, report: &mut Report) {
    for (code, header) in REMOVED {
        for config in http.routes.configs.iter().filter(|config| changes(config, header)) {
            report.add(code, &http.place.at(config.line()), "by the route configuration");
        }
        for (place, _) in http.routes.virtual_hosts.iter().filter(|(_, host)| changes(host, header)) {
            report.add(code, place, "by the virtual host");
        }
        for target in &http.routes.targets {
            let action = target.route.get("route");
            let clusters = action.at(&["weighted_clusters", "clusters"]).items();
            if [&target.route, action].into_iter().chain(clusters).any(|level| changes(level, header)) {
                report.add(code, &target.place, "by the route");
            }
        }
    }
}

fn changes(level: &Node, header: &str) -> bool {
    let is_it = |name: &str| name.eq_ignore_ascii_case(header);
    let mut removed = level.get("request_headers_to_remove").items().iter().map(Node::text);
    let mut added =
        level.get("request_headers_to_add").items().iter().map(|item| item.at(&["header", "key"]).text());
    removed.any(is_it) || added.any(is_it)
}

/// Each attempt has the whole deadline. daypass switches retries off when little is left, so what matters is an attempt that
/// may take longer than that. The route's `timeout` begins when the request is complete, so it bounds no open one.
fn retries(http: &Http<'_>, target: &Target, cap: &Node, report: &mut Report) {
    let policy = target.policy("retry_policy");
    let retries = policy.get("num_retries").number().unwrap_or(1.0) > 0.0;
    let conditions = policy.get("retry_on").text();
    // Before these two, nothing of the request is with an upstream.
    let mut after_start = conditions.split(',').map(str::trim).filter(|condition| !condition.is_empty());
    let may_begin_anew = after_start.any(|condition| !EARLY_RETRIES.contains(&condition));
    if !may_begin_anew || !retries {
        return;
    }
    let is_watched = http
        .filters
        .iter()
        .any(|filter| watch::is_watch(&http.filters, filter) && target.runs(filter) == Runs::Yes);
    let is_short = cap.duration().is_some_and(|cap| !cap.is_zero() && cap <= RETRY_HORIZON);
    if !is_short && !is_watched {
        let cap = if cap.text().is_empty() { "not set" } else { cap.text() };
        let what = format!("retry_on: {conditions}, max_stream_duration: {cap}");
        report.add(Code::RetryOutlives, &target.place.at(policy.line()), what);
    }
}
