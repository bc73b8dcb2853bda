//! The watch: an ext_proc stream that lives as long as a request, so that daypass can end it when its grant is revoked.

use super::cluster::max_requests;
use super::codes::Code;
use super::model::{EXT_PROC, Filter, Model};
use super::node::Node;
use super::report::{Place, Report};

/// Long-lived streams each hold one; Envoy's default of 1024 is soon full.
const FEW_REQUESTS: f64 = 1024.0;
const NAMESPACE: &str = "envoy.filters.http.ext_authz";

fn cluster_of(filter: &Filter) -> &str {
    filter.fields.at(&["grpc_service", "envoy_grpc", "cluster_name"]).text()
}

/// An external processor may be anybody's. It is taken for a watch if it is told of the decision, asks where the checks
/// ask, or is named like one.
pub fn is_watch(filters: &[Filter], filter: &Filter) -> bool {
    let cluster = cluster_of(filter);
    let is_named =
        [cluster, &filter.name].iter().any(|name| name.contains("watch") || name.contains("daypass"));
    let asks_the_same = filters.iter().any(|other| !other.is(EXT_PROC) && cluster_of(other) == cluster);
    filter.is(EXT_PROC) && (is_named || is_told(&filter.fields) || asks_the_same && !cluster.is_empty())
}

fn is_told(fields: &Node) -> bool {
    let names = fields.at(&["metadata_options", "forwarding_namespaces", "untyped"]).items();
    names.iter().any(|name| name.text() == NAMESPACE)
}

pub fn examine(model: &Model, filters: &[Filter], place: &Place, report: &mut Report) {
    let check = filters.iter().position(Filter::may_be_ext_authz);
    for (index, filter) in filters.iter().enumerate().filter(|(_, filter)| is_watch(filters, filter)) {
        let place = place.filter(&filter.name, filter.line);
        if check.is_some_and(|check| index < check) {
            report.add(Code::WatchBeforeCheck, &place, "");
        }
        let fields = &filter.fields;
        if !fields.get("failure_mode_allow").is_true() {
            report.add(Code::WatchFailsClosed, &place.at(fields.get("failure_mode_allow").line()), "");
        }
        if !is_told(fields) {
            report.add(Code::WatchNamespaces, &place.at(fields.get("metadata_options").line()), "");
        }
        mode(fields.get("processing_mode"), &place, report);
        shares(model, filters, filter, &place, report);
    }
}

/// Headers of the request begin the watch, and something that is still to come keeps it open.
fn mode(mode: &Node, place: &Place, report: &mut Report) {
    let place = place.at(mode.line());
    let bodies = ["request_body_mode", "response_body_mode"];
    if bodies.iter().any(|name| !mode.get(name).is_value("NONE", 0)) {
        report.add(Code::WatchSendsBodies, &place, "");
        return;
    }
    let begins = !mode.get("request_header_mode").is_value("SKIP", 2);
    let stays = mode.get("response_trailer_mode").is_value("SEND", 1);
    if !begins || !stays {
        let what = if begins { "response_trailer_mode is not SEND" } else { "request_header_mode is SKIP" };
        report.add(Code::WatchCannotEnd, &place, what);
    }
}

fn shares(model: &Model, filters: &[Filter], filter: &Filter, place: &Place, report: &mut Report) {
    let name = cluster_of(filter);
    let is_shared = filters.iter().any(|other| other.may_be_ext_authz() && cluster_of(other) == name);
    if is_shared {
        report.add(Code::WatchCluster, place, format!("cluster {name} is that of the checks"));
    } else if let Some(cluster) = model.clusters.get(name)
        && max_requests(cluster) <= FEW_REQUESTS
    {
        let what = format!("max_requests of cluster {name} is {}", max_requests(cluster));
        report.add(Code::WatchCluster, &place.at(cluster.line()), what);
    }
}
