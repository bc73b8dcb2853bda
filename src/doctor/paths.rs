//! One reading of the request for Envoy, daypass and the upstream: paths, names of headers, hosts.

use std::collections::BTreeSet;

use super::codes::Code;
use super::http::Http;
use super::model::Reach;
use super::node::Node;
use super::report::Report;

/// Envoy's own switch for what is done with such paths.
const ESCAPED_ENABLED: &str = "http_connection_manager.path_with_escaped_slashes_action_enabled";

pub fn examine(http: &Http<'_>, report: &mut Report) {
    // A tunnel's request is made by this Envoy.
    if http.ends_tunnels() {
        return;
    }
    let (hcm, place) = (http.fields, &http.place);
    if !hcm.get("normalize_path").is_true() {
        let line = hcm.get("normalize_path").line();
        report.add(Code::PathNotNormalized, &place.at(line), "normalize_path is not true");
    }
    if !hcm.get("merge_slashes").is_true() {
        report.add(
            Code::SlashesNotMerged,
            &place.at(hcm.get("merge_slashes").line()),
            "merge_slashes is not true",
        );
    }
    let escaped = hcm.get("path_with_escaped_slashes_action");
    let switch = http.model.runtime(ESCAPED_ENABLED).and_then(Node::number);
    if switch.is_some_and(|percent| percent < 100.0) {
        report.add(Code::EscapedSlashes, place, format!("runtime {ESCAPED_ENABLED} is less than 100"));
    } else if escaped.is_value("UNESCAPE_AND_FORWARD", 4) && hcm.get("normalize_path").is_true() {
        report.add(Code::EscapedForwarded, &place.at(escaped.line()), "UNESCAPE_AND_FORWARD");
    } else if !escaped.is_value("REJECT_REQUEST", 2) && !escaped.is_value("UNESCAPE_AND_REDIRECT", 3) {
        let found = if escaped.text().is_empty() {
            "path_with_escaped_slashes_action is not set"
        } else {
            escaped.text()
        };
        report.add(Code::EscapedSlashes, &place.at(escaped.line()), found);
    }
    let underscores = hcm.at(&["common_http_protocol_options", "headers_with_underscores_action"]);
    if underscores.is_value("ALLOW", 0) {
        let line = underscores.line();
        report.add(Code::UnderscoreHeaders, &place.at(line), "headers_with_underscores_action is ALLOW");
    }
    let old = hcm.at(&["http_protocol_options", "accept_http_10"]);
    if old.is_true() {
        report.add(Code::Http10, &place.at(old.line()), "accept_http_10: true");
    }
    if http.listener.reach() == Reach::Remote {
        let targets = http.routes.targets.iter();
        let leading: BTreeSet<&Option<String>> = targets.map(|target| &target.place.virtual_host).collect();
        for (place, host) in &http.routes.virtual_hosts {
            let domains = host.get("domains");
            let is_any = domains.items().iter().any(|domain| domain.text() == "*");
            if is_any && leading.contains(&place.virtual_host) {
                report.add(Code::AnyHost, &place.at(domains.line()), "domains: [\"*\"]");
            }
        }
    }
}
