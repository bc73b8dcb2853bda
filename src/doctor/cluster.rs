//! The cluster that is asked: whether gRPC gets there, who can listen on the way, and what happens when it is ill.

use super::codes::Code;
use super::model::{Model, Reach, endpoints, http_options, reach};
use super::node::Node;
use super::report::{Place, Report};

/// Envoy's default, for all workers together.
const DEFAULT_MAX_REQUESTS: f64 = 1024.0;
const UPSTREAM_TLS: &str = "tls.v3.UpstreamTlsContext";

/// The cluster of a gRPC service.
pub fn asked(model: &Model, grpc: &Node, place: &Place, report: &mut Report) {
    let name = grpc.at(&["envoy_grpc", "cluster_name"]).text();
    let Some(cluster) = model.clusters.get(name) else {
        report.add(Code::ClusterUnknown, &place.at(grpc.line()), format!("cluster {name:?}"));
        return;
    };
    let place = Place::cluster(name, cluster.line());
    if !speaks_http2(cluster) {
        report.add(Code::NotHttp2, &place, "");
    }
    channel(model, cluster, &place, report);
    if max_requests(cluster) <= DEFAULT_MAX_REQUESTS {
        let found = cluster.get("circuit_breakers");
        report.add(
            Code::BreakerDefault,
            &place.at(found.line()),
            format!("max_requests is {}", max_requests(cluster)),
        );
    }
    let panic = cluster.at(&["common_lb_config", "healthy_panic_threshold"]);
    let is_zero = panic.is_set() && panic.number().unwrap_or(0.0) == 0.0;
    if !cluster.get("health_checks").items().is_empty() && !is_zero {
        report.add(Code::PanicThreshold, &place.at(panic.line()), "");
    }
}

fn speaks_http2(cluster: &Node) -> bool {
    let options = http_options(cluster);
    let kinds = ["explicit_http_config", "use_downstream_protocol_config", "auto_config"];
    kinds.iter().any(|kind| options.at(&[kind, "http2_protocol_options"]).is_set())
        || options.at(&["explicit_http_config", "http3_protocol_options"]).is_set()
        || cluster.get("http2_protocol_options").is_set()
}

/// What the breaker of default priority allows.
pub fn max_requests(cluster: &Node) -> f64 {
    let thresholds = cluster.at(&["circuit_breakers", "thresholds"]).items();
    let default = thresholds.iter().find(|threshold| threshold.get("priority").is_value("DEFAULT", 0));
    default.and_then(|threshold| threshold.get("max_requests").number()).unwrap_or(DEFAULT_MAX_REQUESTS)
}

fn channel(model: &Model, cluster: &Node, place: &Place, report: &mut Report) {
    let own = cluster.get("transport_socket");
    let by_endpoint = cluster.get("transport_socket_matches").items();
    let sockets = by_endpoint.iter().map(|socket| socket.get("transport_socket")).chain([own]);
    let tls: Vec<(&Node, &Node)> =
        sockets.filter_map(|socket| Some((socket, tls(socket, UPSTREAM_TLS)?))).collect();
    let addresses = endpoints(cluster);
    let is_local = !addresses.is_empty() && addresses.iter().all(|address| reach(address) == Reach::Local);
    if tls.is_empty() {
        if !is_local {
            let where_to = addresses.first().map_or_else(
                || "its endpoints come by discovery".to_owned(),
                |address| format!("to {}", address.at(&["socket_address", "address"]).text()),
            );
            report.add(Code::AuthzCleartext, place, format!("{where_to}, without TLS"));
        }
        return;
    }
    for (socket, settings) in tls {
        let common = settings.get("common_tls_context");
        if !is_local && !verifies(model, common) {
            report.add(Code::AuthzTlsUnverified, &place.at(socket.line()), "");
        }
    }
}

/// The TLS settings of a transport socket, also below one that counts, taps or begins in cleartext.
pub fn tls<'a>(socket: &'a Node, message: &str) -> Option<&'a Node> {
    let typed = socket.typed_config();
    if typed.name.ends_with(message) {
        return Some(typed.fields);
    }
    for name in ["tls_socket_config", "downstream_tls_context", "upstream_tls_context"] {
        if typed.fields.get(name).is_set() {
            return Some(typed.fields.get(name));
        }
    }
    let inner = typed.fields.get("transport_socket");
    if inner.is_set() { tls(inner, message) } else { None }
}

/// What is said about the peer's certificate, with secrets that are in the input.
fn contexts<'a>(model: &'a Model, common_tls_context: &'a Node) -> Vec<&'a Node> {
    let combined = common_tls_context.get("combined_validation_context");
    let mut contexts =
        vec![common_tls_context.get("validation_context"), combined.get("default_validation_context")];
    for from in [common_tls_context, combined] {
        let name = from.at(&["validation_context_sds_secret_config", "name"]).text();
        contexts.extend(model.secrets.get(name).map(|secret| secret.get("validation_context")));
    }
    contexts
}

/// Whether a certificate of nobody's is good enough.
pub fn accepts_untrusted(model: &Model, common_tls_context: &Node) -> bool {
    contexts(model, common_tls_context)
        .iter()
        .any(|context| context.get("trust_chain_verification").is_value("ACCEPT_UNTRUSTED", 1))
}

/// Whether a certificate is good for longer than it says.
pub fn accepts_expired(model: &Model, common_tls_context: &Node) -> bool {
    contexts(model, common_tls_context)
        .iter()
        .any(|context| context.get("allow_expired_certificate").is_true())
}

/// Whether what comes from this cluster can be changed on the way.
pub fn is_cleartext(cluster: &Node) -> bool {
    let by_endpoint = cluster.get("transport_socket_matches").items();
    let mut sockets = by_endpoint
        .iter()
        .map(|socket| socket.get("transport_socket"))
        .chain([cluster.get("transport_socket")]);
    let addresses = endpoints(cluster);
    let is_local = !addresses.is_empty() && addresses.iter().all(|address| reach(address) == Reach::Local);
    !is_local && !sockets.any(|socket| tls(socket, UPSTREAM_TLS).is_some())
}

/// Whether a peer's certificate must be of an authority that is named.
pub fn verifies(model: &Model, common_tls_context: &Node) -> bool {
    let secret = common_tls_context.get("validation_context_sds_secret_config");
    let combined = common_tls_context.get("combined_validation_context");
    let contexts = contexts(model, common_tls_context);
    let accepts_all = accepts_untrusted(model, common_tls_context);
    let names = contexts.iter().any(|context| {
        ["trusted_ca", "ca_certificate_provider_instance", "system_root_certs", "custom_validator_config"]
            .iter()
            .chain(&["verify_certificate_spki", "verify_certificate_hash"])
            .any(|name| context.get(name).is_set())
    });
    let secret = secret.is_set() || combined.get("validation_context_sds_secret_config").is_set();
    !accepts_all && (names || secret)
}
