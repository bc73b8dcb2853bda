//! The cluster that is asked: whether gRPC gets there, who can listen on the way, and what happens when it is ill.

use super::codes::Code;
use super::model::{Model, Reach, endpoints, http_options, reach};
use super::node::Node;
use super::report::{Place, Report};

/// Envoy's default, for all workers together.
const DEFAULT_MAX_REQUESTS: f64 = 1024.0;

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
    channel(cluster, &place, report);
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

fn channel(cluster: &Node, place: &Place, report: &mut Report) {
    let own = cluster.get("transport_socket");
    let by_endpoint = cluster.get("transport_socket_matches").items();
    let sockets = by_endpoint.iter().map(|socket| socket.get("transport_socket")).chain([own]);
    let tls: Vec<&Node> =
        sockets.filter(|socket| socket.typed_config().name.ends_with("tls.v3.UpstreamTlsContext")).collect();
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
    for socket in tls {
        let common = socket.typed_config().fields.get("common_tls_context");
        if !is_local && !verifies(common) {
            report.add(Code::AuthzTlsUnverified, &place.at(socket.line()), "");
        }
    }
}

/// Whether a peer's certificate must be of an authority that is named.
pub fn verifies(common_tls_context: &Node) -> bool {
    let secret = common_tls_context.get("validation_context_sds_secret_config");
    let combined = common_tls_context.get("combined_validation_context");
    let contexts = [common_tls_context.get("validation_context"), combined.get("default_validation_context")];
    let accepts_all = contexts
        .iter()
        .any(|context| context.get("trust_chain_verification").is_value("ACCEPT_UNTRUSTED", 1));
    let names = contexts.iter().any(|context| {
        ["trusted_ca", "ca_certificate_provider_instance", "system_root_certs", "custom_validator_config"]
            .iter()
            .chain(&["verify_certificate_spki", "verify_certificate_hash"])
            .any(|name| context.get(name).is_set())
    });
    let secret = secret.is_set() || combined.get("validation_context_sds_secret_config").is_set();
    !accepts_all && (names || secret)
}
