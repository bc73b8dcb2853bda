//! Connections that are not HTTP: the check of a connection's first byte, and tunnels into a listener that checks requests.

use super::codes::Code;
use super::http::is_outbound;
use super::identity::{downstream_tls, unverified};
use super::model::{Chain, Filter, HCM, Listener, Model, NETWORK_EXT_AUTHZ, TCP_PROXY, endpoints};
use super::node::Node;
use super::report::{Place, Report};
use super::routes::Routes;
use super::{authz_filter, cluster};

/// Filters beside tcp_proxy that end a chain and lead to an upstream.
const PROXIES: [&str; 5] = [
    "redis_proxy.v3.RedisProxy",
    "thrift_proxy.v3.ThriftProxy",
    "dubbo_proxy.v3.DubboProxy",
    "generic_proxy.v3.GenericProxy",
    "rocketmq_proxy.v3.RocketmqProxy",
];
/// A mesh's name for a cluster without an endpoint.
const BLACK_HOLE: &str = "BlackHoleCluster";

pub fn examine(model: &Model, listener: &Listener, chain: &Chain, report: &mut Report) {
    let place = Place::listener(&listener.name, listener.node.line()).chain(&chain.name, chain.node.line());
    let Some(end) = chain.filters.iter().position(is_proxy) else {
        for filter in chain.filters.iter().filter(|filter| filter.message.is_empty()) {
            report.add(Code::FilterUnknown, &place.filter(&filter.name, filter.line), "");
        }
        return;
    };
    let proxy = &chain.filters[end];
    let checks: Vec<(usize, &Filter)> =
        chain.filters[..end].iter().enumerate().filter(|(_, filter)| filter.is(NETWORK_EXT_AUTHZ)).collect();
    let routes = Routes::default();
    for (index, filter) in &checks {
        let place = place.filter(&filter.name, filter.line);
        let before = authz_filter::Before { filters: &chain.filters[..*index], routes: &routes, guard: None };
        authz_filter::common(model, &before, filter, &place, report);
        report.add(Code::TcpNoDeadline, &place, "");
    }
    let place = place.filter(&proxy.name, proxy.line);
    if checks.is_empty() {
        unchecked(model, listener, chain, proxy, &place, report);
    } else if proxy.is(TCP_PROXY) {
        let mode = proxy.fields.get("upstream_connect_mode");
        if !mode.is_value("ON_DOWNSTREAM_DATA", 1) {
            report.add(
                Code::TcpServerFirst,
                &place.at(mode.line()),
                "upstream_connect_mode is not ON_DOWNSTREAM_DATA",
            );
        }
    }
}

pub fn is_proxy(filter: &Filter) -> bool {
    filter.is(TCP_PROXY) || PROXIES.iter().any(|proxy| filter.is(proxy))
}

fn unchecked(
    model: &Model,
    listener: &Listener,
    chain: &Chain,
    proxy: &Filter,
    place: &Place,
    report: &mut Report,
) {
    let tunnel = proxy.fields.get("tunneling_config");
    let clusters = upstreams(proxy);
    let chooses = |filter: &&Filter| {
        filter.message.ends_with("sni_cluster.v3.SniCluster")
            || filter.fields.any_text(&|text| text == "envoy.tcp_proxy.cluster")
    };
    if let Some(filter) = chain.filters.iter().find(chooses) {
        report.add(Code::TcpUnchecked, place, format!("{} chooses where it leads", filter.name));
        return;
    }
    let leads_inside = !clusters.is_empty() && clusters.iter().all(|name| inner(model, name).is_some());
    if leads_inside {
        // The listener inside is looked at by itself; only a tunnel can carry who connects.
        if tunnel.is_set() {
            handshake(model, chain, proxy, place, report);
        }
        return;
    }
    if clusters.iter().all(|name| is_black_hole(model, name)) && !clusters.is_empty() {
        return;
    }
    if is_outbound(model, listener) {
        report.add(Code::ListenerOutbound, place, "");
    } else {
        report.add(Code::TcpUnchecked, place, format!("leads to {}", clusters.join(", ")));
    }
}

/// With client certificates, the tunnel must wait until it can say who connects.
fn handshake(model: &Model, chain: &Chain, proxy: &Filter, place: &Place, report: &mut Report) {
    let Some(tls) = downstream_tls(chain.node.get("transport_socket")) else { return };
    let common = tls.get("common_tls_context");
    let asks = tls.get("require_client_certificate").is_true() || cluster::verifies(model, common);
    let mode = proxy.fields.get("upstream_connect_mode");
    if asks && !mode.is_value("ON_DOWNSTREAM_TLS_HANDSHAKE", 2) {
        report.add(
            Code::TcpHandshake,
            &place.at(mode.line()),
            "upstream_connect_mode is not ON_DOWNSTREAM_TLS_HANDSHAKE",
        );
    }
    unverified(model, tls, place, report);
}

pub fn upstreams(proxy: &Filter) -> Vec<&str> {
    let weighted = proxy.fields.at(&["weighted_clusters", "clusters"]).items();
    let names = weighted.iter().map(|cluster| cluster.get("name")).chain([proxy.fields.get("cluster")]);
    names.filter(|name| name.is_set()).map(Node::text).collect()
}

/// The listener of this Envoy that a cluster leads to.
pub fn inner<'a>(model: &'a Model, cluster: &str) -> Option<&'a Listener> {
    let addresses = endpoints(model.clusters.get(cluster)?);
    let names: Vec<&str> = addresses
        .iter()
        .map(|address| address.at(&["envoy_internal_address", "server_listener_name"]).text())
        .collect();
    let first = names.first().filter(|first| names.iter().all(|name| name == *first))?;
    model.listeners.iter().find(|listener| listener.is_internal() && listener.name == **first)
}

fn is_black_hole(model: &Model, name: &str) -> bool {
    name == BLACK_HOLE && model.clusters.get(name).is_none_or(|cluster| endpoints(cluster).is_empty())
}

/// Proxies of datagrams are filters of the listener.
pub fn datagrams(listener: &Listener, filters: &[Filter], report: &mut Report) {
    for filter in filters.iter().filter(|filter| filter.is("udp_proxy.v3.UdpProxyConfig")) {
        let place = Place::listener(&listener.name, listener.node.line()).filter(&filter.name, filter.line);
        let mut is_checked = false;
        filter.fields.each_message(&mut |typed| {
            if typed.name.contains("session.ext_authz") {
                is_checked = true;
                if typed.fields.get("failure_mode_allow").is_true() {
                    report.add(Code::FailureModeAllow, &place, "failure_mode_allow: true");
                }
            }
        });
        if !is_checked {
            report.add(Code::UdpUnchecked, &place, "");
        }
    }
}

/// Every proxied chain of a configuration in which nobody asks anything.
pub fn note_all(model: &Model, report: &mut Report) {
    for listener in &model.listeners {
        let http = |filter: &Filter| filter.is(HCM);
        for chain in listener.chains.iter().filter(|chain| !chain.filters.iter().any(http)) {
            if chain.filters.iter().any(is_proxy) && !is_outbound(model, listener) {
                let place = Place::listener(&listener.name, listener.node.line());
                report.add(Code::TcpNoExtAuthz, &place.chain(&chain.name, chain.node.line()), "");
            }
        }
    }
}
