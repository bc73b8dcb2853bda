//! What `daypass doctor` finds: nothing in a hardened configuration, one thing for each fault put into it, what the
//! generators of meshes and gateways leave open, and the same from a running Envoy as from its file.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use daypass::doctor::{Code, Finding, Report, Severity, examine};
use serde_json::Value;

use crate::support::daypass::{binary, run, write_file};
use crate::support::envoy::{Authority, Envoy, token};
use crate::support::{free_port, tool};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn path(name: &str) -> PathBuf {
    Path::new(ROOT).join("tests/fixtures/doctor").join(name)
}

pub fn fixture(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap()
}

pub fn found(text: &str) -> Report {
    examine(text).unwrap_or_else(|error| panic!("{error}"))
}

pub fn codes(report: &Report) -> BTreeSet<&'static str> {
    report.findings().iter().map(|finding| finding.code.name()).collect()
}

/// `code at route`, or at what is nearest to it, of what is a warning or worse.
pub fn places(report: &Report, severity: Severity) -> Vec<String> {
    let at = |finding: &Finding| {
        let place = &finding.place;
        let parts = [&place.route, &place.filter, &place.filter_chain, &place.cluster, &place.listener];
        let name = parts.into_iter().flatten().next();
        format!("{} at {}", finding.code.name(), name.map_or("-", String::as_str))
    };
    let mut places: Vec<String> =
        report.findings().iter().filter(|finding| finding.code.severity() == severity).map(at).collect();
    places.sort();
    places
}

/// What is there, and what a fault puts in its place.
pub type Change = (&'static str, &'static str);

pub fn changed(text: &str, changes: &[Change]) -> String {
    changes.iter().fold(text.to_owned(), |text, (from, to)| {
        assert_eq!(text.matches(from).count(), 1, "{from:?} must be there once");
        text.replace(from, to)
    })
}

pub const ROUTER: &str = "          - name: envoy.filters.http.router\n";
pub const CHECK: &str = "          - name: envoy.filters.http.ext_authz\n            typed_config:\n";
pub const APP: &str =
    "route: { cluster: upstream, timeout: 0s }        # the grant's deadline comes from the sidecar\n";
const VHOST: &str = "                envoy.filters.http.ext_authz:\n                  \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute\n                  check_settings: { context_extensions: { daypass_resource: svc, daypass_env: dev } }\n";
pub const DENY_AT_DISABLE: &str =
    "deny_at_disable: { default_value: { value: true }, runtime_key: daypass.deny_at_disable }";
const MUTATED: &str = "allow_expression: { regex: \"x-daypass-[a-z0-9-]+|x-envoy-upstream-stream-duration-ms|x-envoy-upstream-rq-timeout-ms|x-envoy-max-retries\" }";
pub const STAT: &str = "              stat_prefix: daypass\n";
pub const TRUSTED: &str = "            validation_context: { trusted_ca: { filename: envoy/keys/ca.crt } }\n";
pub const CLUSTERS: &str = "  clusters:\n";

macro_rules! filter {
    ($name:literal, $type:literal, $fields:literal) => {
        concat!(
            "          - name: ",
            $name,
            "\n            typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.",
            $type,
            ", ",
            $fields,
            " }\n          - name: envoy.filters.http.router\n"
        )
    };
}

/// Each takes one thing from the hardened configuration, or puts one wrong thing in.
const FAULTS: &[(&str, &[Change])] = &[
    (
        "route-unchecked",
        &[(
            APP,
            "route: { cluster: upstream, timeout: 0s }\n                typed_per_filter_config: { envoy.filters.http.ext_authz: { \"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true } }\n",
        )],
    ),
    (
        "route-not-enabled",
        &[
            (
                CHECK,
                "          - name: envoy.filters.http.ext_authz\n            disabled: true\n            typed_config:\n",
            ),
            (VHOST, "                {}\n"),
        ],
    ),
    (
        "listener-unchecked",
        &[(
            CLUSTERS,
            "  - name: second\n    address: { socket_address: { address: 127.0.0.1, port_value: 10001 } }\n    filter_chains:\n    - filters:\n      - name: hcm\n        typed_config:\n          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          stat_prefix: second\n          route_config: { virtual_hosts: [{ name: all, domains: [\"*\"], routes: [{ match: { prefix: / }, route: { cluster: upstream } }] }] }\n          http_filters: [{ name: r, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router } }]\n  clusters:\n",
        )],
    ),
    (
        "tcp-unchecked",
        &[(
            CLUSTERS,
            "  - name: second\n    address: { socket_address: { address: 127.0.0.1, port_value: 10001 } }\n    filter_chains: [{ filters: [{ name: t, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: upstream } }] }]\n  clusters:\n",
        )],
    ),
    (
        "enabled-fraction",
        &[(DENY_AT_DISABLE, "filter_enabled: { default_value: { numerator: 50, denominator: HUNDRED } }")],
    ),
    (
        "enabled-by-metadata",
        &[(
            STAT,
            "              filter_enabled_metadata: { filter: some.filter, path: [{ key: checked }], value: { bool_match: true } }\n",
        )],
    ),
    (
        "runtime-switch",
        &[(
            DENY_AT_DISABLE,
            "filter_enabled: { runtime_key: check.percent, default_value: { numerator: 100, denominator: HUNDRED } }",
        )],
    ),
    ("shadow-mode", &[(STAT, "              shadow_mode: true\n")]),
    ("failure-mode-allow", &[("failure_mode_allow: false", "failure_mode_allow: true")]),
    (
        "route-cache-cleared-after-check",
        &[(
            ROUTER,
            filter!(
                "script",
                "lua.v3.Lua",
                "default_source_code: { inline_string: \"function envoy_on_request(h) h:clearRouteCache() end\" }"
            ),
        )],
    ),
    (
        "filter-can-reroute",
        &[(
            ROUTER,
            filter!(
                "script",
                "lua.v3.Lua",
                "default_source_code: { inline_string: \"function envoy_on_request(h) end\" }"
            ),
        )],
    ),
    (
        "deadline-removed",
        &[(
            ROUTER,
            filter!(
                "edit",
                "header_mutation.v3.HeaderMutation",
                "mutations: { request_mutations: [{ remove: x-envoy-upstream-stream-duration-ms }] }"
            ),
        )],
    ),
    (
        "deadline-removed",
        &[(
            APP,
            "route: { cluster: upstream, timeout: 0s }\n                request_headers_to_remove: [X-Envoy-Upstream-Stream-Duration-Ms]\n",
        )],
    ),
    (
        "deadline-dropped",
        &[(MUTATED, "allow_expression: { regex: \"x-daypass-[a-z0-9-]+|x-envoy-max-retries\" }")],
    ),
    (
        "max-retries-dropped",
        &[(
            MUTATED,
            "allow_expression: { regex: \"x-daypass-[a-z0-9-]+|x-envoy-upstream-stream-duration-ms\" }",
        )],
    ),
    ("clear-route-cache", &[("clear_route_cache: false", "clear_route_cache: true")]),
    ("cluster-header", &[(APP, "route: { cluster_header: x-where, timeout: 0s }\n")]),
    (
        "override-other-service",
        &[(
            "check_settings: { context_extensions",
            "check_settings: { grpc_service: { envoy_grpc: { cluster_name: upstream } }, context_extensions",
        )],
    ),
    (
        "override-unmatched",
        &[(
            VHOST,
            "                ext_authz:\n                  \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute\n                  check_settings: { context_extensions: { daypass_resource: svc } }\n",
        )],
    ),
    ("timeout-long", &[("timeout: 0.25s\n              failure", "timeout: 5s\n              failure")]),
    (
        "timeout-default",
        &[("                timeout: 0.25s\n              failure", "              failure")],
    ),
    ("timeout-short", &[("timeout: 0.25s\n              failure", "timeout: 0.1s\n              failure")]),
    (
        "status-on-error",
        &[("status_on_error: { code: ServiceUnavailable }", "status_on_error: { code: Forbidden }")],
    ),
    (
        "authz-cluster-not-http2",
        &[
            (
                "          http2_protocol_options:\n            max_concurrent_streams: 1024\n            connection_keepalive: { interval: 30s, timeout: 5s }\n",
                "          http_protocol_options: {}\n",
            ),
            // Envoy refuses gRPC health checks over HTTP/1.1, but no checks.
            (
                "grpc_health_check: { service_name: envoy.service.auth.v3.Authorization }",
                "tcp_health_check: {}",
            ),
        ],
    ),
    (
        "authz-cleartext",
        &[(
            "{ pipe: { path: daypass.sock } }",
            "{ socket_address: { address: 192.0.2.5, port_value: 9191 } }",
        )],
    ),
    ("breaker-default", &[("max_requests: 4096, ", "")]),
    ("panic-threshold", &[("    common_lb_config: { healthy_panic_threshold: { value: 0 } }\n", "")]),
    ("remote-address-unset", &[("use_remote_address: true ", "use_remote_address: false ")]),
    (
        "internal-addresses",
        &[(
            "xff_num_trusted_hops: 0\n",
            "xff_num_trusted_hops: 0\n          internal_address_config: { cidr_ranges: [] }\n",
        )],
    ),
    (
        "internal-addresses",
        &[(
            "xff_num_trusted_hops: 0\n",
            "xff_num_trusted_hops: 0\n          internal_address_config: { cidr_ranges: [{ address_prefix: 10.0.0.0, prefix_len: 8 }] }\n",
        )],
    ),
    ("trusted-hops", &[("xff_num_trusted_hops: 0\n", "xff_num_trusted_hops: 2\n")]),
    ("jwt-no-expiration", &[("                  require_expiration: true\n", "")]),
    ("jwt-no-audience", &[("                  audiences: [daypass]\n", "")]),
    ("jwt-payload-missing", &[("                  payload_in_metadata: jwt_payload\n", "")]),
    ("jwt-forwarded", &[("forward: false", "forward: true")]),
    (
        "jwt-optional",
        &[(
            "requires: { provider_name: idp }",
            "requires: { requires_any: { requirements: [{ provider_name: idp }, { allow_missing: {} }] } }",
        )],
    ),
    (
        "jwt-route-uncovered",
        &[("              - match: { prefix: / }\n                requires: { provider_name: idp }\n", "")],
    ),
    (
        "metadata-not-sent",
        &[("              metadata_context_namespaces: [envoy.filters.http.jwt_authn]\n", "")],
    ),
    (
        "client-cert-unverified",
        &[
            ("require_client_certificate: false", "require_client_certificate: true"),
            (
                TRUSTED,
                "            validation_context: { trusted_ca: { filename: envoy/keys/ca.crt }, trust_chain_verification: ACCEPT_UNTRUSTED }\n",
            ),
        ],
    ),
    ("xfcc-spoofable", &[("details: SANITIZE\n", "details: ALWAYS_FORWARD_ONLY\n")]),
    ("xfcc-forwarded", &[("details: SANITIZE\n", "details: APPEND_FORWARD\n")]),
    (
        "daypass-headers-kept",
        &[("              - remove_on_match: { key_matcher: { prefix: x-daypass- } }\n", "")],
    ),
    ("envoy-headers-kept", &[("              - remove: x-envoy-upstream-stream-duration-ms\n", "")]),
    ("path-not-normalized", &[("          normalize_path: true\n", "")]),
    ("slashes-not-merged", &[("merge_slashes: true", "merge_slashes: false")]),
    ("escaped-slashes", &[("REJECT_REQUEST\n          strip_any", "KEEP_UNCHANGED\n          strip_any")]),
    ("underscore-headers", &[("            headers_with_underscores_action: REJECT_REQUEST\n", "")]),
    (
        "http-1-0",
        &[(
            "          merge_slashes: true\n",
            "          merge_slashes: true\n          http_protocol_options: { accept_http_10: true, default_host_for_http_10: svc.example }\n",
        )],
    ),
    (
        "no-stream-cap",
        &[("            max_stream_duration: 28800s                          # = longest grant\n", "")],
    ),
    ("body-buffered", &[(STAT, "              with_request_body: { max_request_bytes: 4096 }\n")]),
    (
        "retry-outlives-grant",
        &[("timeout: 0s }        # the", "timeout: 0s, retry_policy: { retry_on: 5xx } }        # the")],
    ),
    (
        "hedging",
        &[(
            "timeout: 0s }        # the",
            "timeout: 0s, hedge_policy: { hedge_on_per_try_timeout: true } }        # the",
        )],
    ),
    (
        "case-insensitive-route",
        &[(
            "match: { prefix: / }\n                route",
            "match: { prefix: /, case_sensitive: false }\n                route",
        )],
    ),
    ("validate-mutations", &[("              validate_mutations: true\n", "")]),
    ("secrets-sent", &[(", { exact: cookie, ignore_case: true }", "")]),
    (
        "udp-unchecked",
        &[(
            CLUSTERS,
            "  - name: dns\n    address: { socket_address: { protocol: UDP, address: 127.0.0.1, port_value: 10053 } }\n    listener_filters:\n    - name: udp\n      typed_config:\n        \"@type\": type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig\n        stat_prefix: dns\n        matcher: { on_no_match: { action: { name: route, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.Route, cluster: upstream } } } }\n  clusters:\n",
        )],
    ),
    (
        "ext-authz-over-http",
        &[(
            "grpc_service:\n                envoy_grpc: { cluster_name: daypass }\n                timeout: 0.25s\n",
            "http_service: { server_uri: { uri: \"http://daypass\", cluster: daypass, timeout: 0.25s } }\n",
        )],
    ),
    (
        "google-grpc",
        &[(
            "envoy_grpc: { cluster_name: daypass }\n                timeout",
            "google_grpc: { target_uri: \"unix:daypass.sock\", stat_prefix: daypass }\n                timeout",
        )],
    ),
    (
        "authz-tls-unverified",
        &[
            (
                "{ pipe: { path: daypass.sock } }",
                "{ socket_address: { address: 192.0.2.5, port_value: 9191 } }",
            ),
            (
                "  - name: daypass\n    type: STATIC\n",
                "  - name: daypass\n    type: STATIC\n    transport_socket: { name: tls, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext } }\n",
            ),
        ],
    ),
    (
        "conditional-filter",
        &[(
            ROUTER,
            "          - name: composite\n            typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.composite.v3.Composite }\n          - name: envoy.filters.http.router\n",
        )],
    ),
    (
        "jwt-any",
        &[(
            "requires: { provider_name: idp }",
            "requires: { requires_any: { requirements: [{ provider_name: idp }, { provider_name: idp }] } }",
        )],
    ),
    (
        "cluster-stream-cap",
        &[(
            "  - name: upstream\n    type: STATIC\n",
            "  - name: upstream\n    type: STATIC\n    typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: { \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, common_http_protocol_options: { max_stream_duration: 60s }, explicit_http_config: { http_protocol_options: {} } } }\n",
        )],
    ),
    (
        "any-host",
        &[
            ("address: 127.0.0.1, port_value: 10000", "address: 0.0.0.0, port_value: 10000"),
            ("domains: [svc.example]", "domains: [\"*\"]"),
        ],
    ),
    ("admin-exposed", &[("address: 127.0.0.1, port_value: 9901", "address: 0.0.0.0, port_value: 9901")]),
];

#[test]
fn a_hardened_configuration_is_silent() {
    let report = found(&fixture("hardened.yaml"));
    assert_eq!(codes(&report), BTreeSet::from(["no-guard"]), "{report:?}");
    assert!(report.is_clean());
}

#[test]
fn the_shipped_configurations_leave_open_what_they_say() {
    const MINIMAL: [&str; 5] = [
        "daypass-headers-kept",
        "escaped-slashes",
        "path-not-normalized",
        "slashes-not-merged",
        "underscore-headers",
    ];
    for (name, expected) in [
        ("compose", &[][..]),
        ("guarded", &[]),
        ("hardened", &[]),
        ("jwt", &[]),
        ("minimal-tcp", &MINIMAL),
        ("minimal-uds", &MINIMAL),
        ("mtls", &[]),
        ("streams", &[]),
        ("tcp", &[]),
        ("tcp-plain", &[]),
    ] {
        let report = found(&shipped(name));
        let is_loud = |finding: &&Finding| finding.code.severity() != Severity::Note;
        let loud: BTreeSet<_> =
            report.findings().iter().filter(is_loud).map(|found| found.code.name()).collect();
        assert_eq!(loud, expected.iter().copied().collect(), "{name}");
    }
    let count = std::fs::read_dir(Path::new(ROOT).join("envoy")).unwrap().filter(|entry| {
        entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "yaml")
    });
    assert_eq!(count.count(), 10, "a configuration that is not looked at here");
}

fn shipped(name: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join("envoy").join(format!("{name}.yaml"))).unwrap()
}

/// No prefix matches a CONNECT, so a rule for all paths asks it for no token.
#[test]
fn a_tunnel_that_needs_no_token_is_found() {
    let rule =
        "              - match: { connect_matcher: {} }\n                requires: { provider_name: idp }\n";
    let before = codes(&found(&shipped("streams")));
    let after = codes(&found(&changed(&shipped("streams"), &[(rule, "")])));
    assert_eq!(after.difference(&before).copied().collect::<Vec<_>>(), ["jwt-route-uncovered"]);
}

#[test]
fn each_fault_is_found_and_nothing_else() {
    let hardened = fixture("hardened.yaml");
    for (code, changes) in FAULTS {
        let report = found(&changed(&hardened, changes));
        assert_eq!(codes(&report), BTreeSet::from([*code, "no-guard"]), "{code}: {changes:?}\n{report:#?}");
        let place = &report.findings()[0].place;
        assert!(place.line.is_some(), "{code} says where: {place:?}");
    }
}

/// The faults are configurations that somebody may run.
#[test]
fn envoy_takes_the_configurations_with_faults() {
    let Some(envoy) = tool("envoy") else { return };
    let dir = tempfile::tempdir().unwrap();
    let hardened = prepared(dir.path());
    let Some(hardened) = hardened else { return };
    let all = std::iter::once(("nothing", [].as_slice())).chain(FAULTS.iter().copied());
    for (index, (code, changes)) in all.enumerate() {
        let file = write_file(dir.path(), &format!("{index}.yaml"), &changed(&hardened, changes));
        let mut command = Command::new(&envoy);
        command.current_dir(dir.path()).args(["--mode", "validate", "-l", "error", "-c", &file]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{code}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The hardened configuration with the keys it names below `dir`.
pub fn prepared(dir: &Path) -> Option<String> {
    token(dir, "alice@corp")?;
    Authority::new(dir).issue("srv", &["svc.example"]);
    Some(fixture("hardened.yaml"))
}

/// ext_authz behind what should come behind it.
#[test]
fn order_counts() {
    let hardened = fixture("hardened.yaml");
    let start = hardened.find("          - name: envoy.filters.http.jwt_authn\n").unwrap();
    let check = hardened.find(CHECK).unwrap();
    let router = hardened.find(ROUTER).unwrap();
    let clusters = hardened.find(CLUSTERS).unwrap();
    let [before, jwt, check, router, after] = [
        &hardened[..start],
        &hardened[start..check],
        &hardened[check..router],
        &hardened[router..clusters],
        &hardened[clusters..],
    ];
    let cache = "          - name: cache\n            typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.cache.v3.CacheConfig }\n";
    for (code, order) in [
        ("ext-authz-before-jwt", [before, check, jwt, router, after].concat()),
        ("ext-authz-after-router", [before, jwt, router, check, after].concat()),
        ("ext-authz-after-cache", [before, jwt, cache, check, router, after].concat()),
        ("no-ext-authz", [before, jwt, router, after].concat()),
    ] {
        let found = codes(&found(&order));
        let wanted = if code == "no-ext-authz" { vec![code] } else { vec![code, "no-guard"] };
        assert_eq!(found, wanted.into_iter().collect(), "{code}");
    }
}

/// Some only show with something else.
#[test]
fn some_faults_come_together() {
    let hardened = fixture("hardened.yaml");
    let partial =
        "              with_request_body: { max_request_bytes: 4096, allow_partial_message: true }\n";
    let partial = changed(&hardened, &[(STAT, partial)]);
    assert_eq!(codes(&found(&partial)), BTreeSet::from(["body-buffered", "body-partial", "no-guard"]));
    let google =
        "google_grpc: { target_uri: \"192.0.2.5:9191\", stat_prefix: daypass }\n                timeout";
    let google =
        changed(&hardened, &[("envoy_grpc: { cluster_name: daypass }\n                timeout", google)]);
    assert_eq!(codes(&found(&google)), BTreeSet::from(["authz-cleartext", "google-grpc", "no-guard"]));
    // Without tokens, the certificate is all there is.
    let start = hardened.find("          - name: envoy.filters.http.jwt_authn\n").unwrap();
    let end = hardened.find(CHECK).unwrap();
    let without = [&hardened[..start], &hardened[end..]].concat();
    assert_eq!(codes(&found(&without)), BTreeSet::from(["client-cert-optional", "no-guard"]));
    let required = "require_client_certificate: true";
    let required = changed(&without, &[("require_client_certificate: false", required)]);
    assert_eq!(codes(&found(&required)), BTreeSet::from(["no-guard"]));
}

/// A code that no test names may be one that nothing can lead to.
#[test]
fn every_code_has_a_test() {
    let tests = [include_str!("doctor.rs"), include_str!("doctor_gaps.rs")].concat();
    let missing: Vec<&str> = Code::ALL
        .iter()
        .map(|code| code.name())
        .filter(|code| !tests.contains(&format!("\"{code}")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

pub const GUARD: &str = "          - name: guard\n            typed_config:\n              \"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC\n              rules:\n                action: ALLOW\n                policies:\n                  decided:\n                    permissions: [{ any: true }]\n                    principals: [{ sourced_metadata: { metadata_source: DYNAMIC, metadata_matcher: { filter: envoy.filters.http.ext_authz, path: [{ key: decision_id }], value: { present_match: true } } } }]\n";

#[test]
fn a_guard_denies_what_escapes() {
    let guarded = changed(
        &fixture("hardened.yaml"),
        &[(ROUTER, Box::leak(format!("{GUARD}{ROUTER}").into_boxed_str()))],
    );
    assert_eq!(codes(&found(&guarded)), BTreeSet::new());
    let (_, escape) = FAULTS[0];
    assert_eq!(codes(&found(&changed(&guarded, escape))), BTreeSet::new());
    // Unless the guard is off there too.
    let off = [(
        "FilterConfig, disabled: true }",
        "FilterConfig, disabled: true }, guard: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute }",
    )];
    let report = found(&changed(&changed(&guarded, escape), &off));
    assert_eq!(codes(&report), BTreeSet::from(["route-unchecked"]));
}

const WATCH: &str = "          - name: watch\n            typed_config:\n              \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor\n              grpc_service: { envoy_grpc: { cluster_name: daypass_watch } }\n              failure_mode_allow: true\n              processing_mode: { request_header_mode: SEND, response_header_mode: SKIP, response_trailer_mode: SEND }\n              metadata_options: { forwarding_namespaces: { untyped: [envoy.filters.http.ext_authz] } }\n          - name: envoy.filters.http.router\n";
const WATCH_CLUSTER: &str = "  clusters:\n  - name: daypass_watch\n    type: STATIC\n    typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: { \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: { http2_protocol_options: {} } } }\n    circuit_breakers: { thresholds: [{ max_requests: 100000 }] }\n    load_assignment: { cluster_name: daypass_watch, endpoints: [{ lb_endpoints: [{ endpoint: { address: { pipe: { path: daypass.sock } } } }] }] }\n";

#[test]
fn a_watch_is_looked_at() {
    let watched = changed(&fixture("hardened.yaml"), &[(ROUTER, WATCH), (CLUSTERS, WATCH_CLUSTER)]);
    assert_eq!(codes(&found(&watched)), BTreeSet::from(["no-guard"]));
    let faults: [(&str, Change); 8] = [
        ("watch-fails-closed", ("              failure_mode_allow: true\n", "")),
        (
            "watch-sends-bodies",
            ("response_trailer_mode: SEND", "response_trailer_mode: SEND, response_body_mode: STREAMED"),
        ),
        ("watch-cannot-end-streams", (", response_trailer_mode: SEND", "")),
        ("watch-cannot-end-streams", ("request_header_mode: SEND", "request_header_mode: SKIP")),
        (
            "watch-shares-breaker",
            ("{ envoy_grpc: { cluster_name: daypass_watch } }", "{ envoy_grpc: { cluster_name: daypass } }"),
        ),
        ("watch-shares-breaker", ("    circuit_breakers: { thresholds: [{ max_requests: 100000 }] }\n", "")),
        (
            "watch-without-metadata",
            (
                "              metadata_options: { forwarding_namespaces: { untyped: [envoy.filters.http.ext_authz] } }\n",
                "",
            ),
        ),
        // With a watch, retries end when the grant does.
        (
            "no-guard",
            ("timeout: 0s }        # the", "timeout: 0s, retry_policy: { retry_on: 5xx } }        # the"),
        ),
    ];
    for (code, fault) in faults {
        let report = found(&changed(&watched, &[fault]));
        assert_eq!(codes(&report), BTreeSet::from([code, "no-guard"]), "{fault:?}");
    }
    let early = WATCH.replace(ROUTER, "");
    let early = changed(
        &fixture("hardened.yaml"),
        &[(CHECK, Box::leak(format!("{early}{CHECK}").into_boxed_str())), (CLUSTERS, WATCH_CLUSTER)],
    );
    assert_eq!(codes(&found(&early)), BTreeSet::from(["watch-before-ext-authz", "no-guard"]));
}

#[test]
fn connections_are_looked_at() {
    let first_byte = fixture("tcp-first-byte.yaml");
    let notes = BTreeSet::from(["breaker-default", "tcp-no-deadline"]);
    assert_eq!(codes(&found(&first_byte)), notes);
    let faults: [(&str, Change); 3] = [
        ("tcp-server-speaks-first", ("ON_DOWNSTREAM_DATA ", "IMMEDIATE ")),
        ("failure-mode-allow", ("failure_mode_allow: false", "failure_mode_allow: true")),
        ("authz-cleartext", ("address: 127.0.0.1, port_value: 9191", "address: 192.0.2.5, port_value: 9191")),
    ];
    for (code, fault) in faults {
        let mut wanted = notes.clone();
        wanted.insert(code);
        assert_eq!(codes(&found(&changed(&first_byte, &[fault]))), wanted, "{code}");
    }
    // Nobody asks in it at all: it may have nothing to do with daypass.
    let start = first_byte.find("      - name: envoy.filters.network.ext_authz").unwrap();
    let end = first_byte.find("      - name: envoy.filters.network.tcp_proxy").unwrap();
    let without = [&first_byte[..start], &first_byte[end..]].concat();
    assert_eq!(codes(&found(&without)), BTreeSet::from(["tcp-without-check"]));

    let tunnel = fixture("tcp-tunnel.yaml");
    assert!(found(&tunnel).is_clean(), "{:#?}", found(&tunnel));
    let early = changed(
        &tunnel,
        &[("upstream_connect_mode: ON_DOWNSTREAM_TLS_HANDSHAKE ", "upstream_connect_mode: IMMEDIATE ")],
    );
    assert_eq!(
        places(&found(&early), Severity::Warning),
        ["tcp-connect-before-handshake at envoy.filters.network.tcp_proxy"]
    );
    let around = changed(&tunnel, &[("          cluster: inner\n", "          cluster: db\n")]);
    assert_eq!(
        places(&found(&around), Severity::Critical),
        ["tcp-unchecked at envoy.filters.network.tcp_proxy"]
    );
}

/// One listener of this Envoy leads to another: either may ask.
#[test]
fn listeners_inside_count_with_what_leads_to_them() {
    let tunnel = fixture("tcp-tunnel.yaml");
    // As a mesh's waypoint: one ends the tunnel, one inside asks.
    let start = tunnel.find("    - transport_socket:\n").unwrap();
    let end = tunnel.find("  - name: inner\n").unwrap();
    let outside = "    - filters:\n      - name: hcm\n        typed_config:\n          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          route_config: { virtual_hosts: [{ name: all, domains: [\"*\"], routes: [{ match: { connect_matcher: {} }, route: { cluster: inner } }] }] }\n          http_filters:\n          - name: router\n            typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }\n";
    let waypoint = [&tunnel[..start], outside, &tunnel[end..]].concat();
    let report = found(&waypoint);
    assert_eq!(places(&report, Severity::Critical), Vec::<String>::new());
    // What comes through it is what a client wrote.
    assert!(codes(&report).contains("path-not-normalized"), "{report:#?}");
    // The same with the check outside: then the listener inside is reached by nobody else.
    let check_start = waypoint.find(CHECK).unwrap();
    let check_end = waypoint[check_start..].find(ROUTER).unwrap() + check_start;
    let check = &waypoint[check_start..check_end];
    let without = [&waypoint[..check_start], &waypoint[check_end..]].concat();
    assert_eq!(codes(&found(&without)), BTreeSet::from(["no-ext-authz"]));
    let outer = without.replace("          - name: router\n", &format!("{check}          - name: router\n"));
    assert_eq!(places(&found(&outer), Severity::Critical), Vec::<String>::new());
    // And a second way in that nobody checks.
    let second = "  - name: second\n    address: { socket_address: { address: 127.0.0.1, port_value: 10001 } }\n    filter_chains: [{ filters: [{ name: t, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: inner } }] }]\n  clusters:\n";
    let open = changed(&outer, &[(CLUSTERS, second)]);
    assert_eq!(places(&found(&open), Severity::Critical), ["listener-unchecked at 0"]);
}

#[test]
fn a_mesh_sidecar_is_understood() {
    let report = found(&fixture("istio-sidecar.json"));
    assert_eq!(places(&report, Severity::Critical), ["tcp-unchecked at envoy.filters.network.tcp_proxy"]);
    let tcp = &report.findings()[0].place;
    assert_eq!(tcp.filter_chain.as_deref(), Some("virtualInbound"));
    let warnings: BTreeSet<_> = report
        .findings()
        .iter()
        .map(|finding| finding.code)
        .filter(|code| code.severity() == Severity::Warning)
        .map(Code::name)
        .collect();
    assert_eq!(
        warnings,
        BTreeSet::from([
            "checked-by-rules",
            "daypass-headers-kept",
            "escaped-slashes",
            "jwt-no-expiration",
            "jwt-optional",
            "metadata-not-sent",
            "remote-address-unset",
            "slashes-not-merged",
            "underscore-headers",
            "xfcc-forwarded",
        ])
    );
    let notes = places(&report, Severity::Note);
    assert_eq!(notes.iter().filter(|note| note.starts_with("listener-outbound")).count(), 3, "{notes:?}");
    assert_eq!(notes.iter().filter(|note| note.starts_with("listener-operational")).count(), 2, "{notes:?}");
    // A policy for every request.
    let mut all: Value = serde_json::from_str(&fixture("istio-sidecar.json")).unwrap();
    set(&mut all, "not_rule", "any", &Value::Bool(true));
    let all = codes(&found(&all.to_string()));
    assert!(all.contains("checked-by-all-rules") && !all.contains("checked-by-rules"), "{all:?}");
    // A gateway of the mesh serves clients outbound.
    let gateway = fixture("istio-sidecar.json").replace("sidecar~", "router~");
    assert!(codes(&found(&gateway)).contains("listener-unchecked"));
}

/// Puts a member in the place of another, everywhere.
fn set(value: &mut Value, from: &str, to: &str, with: &Value) {
    match value {
        Value::Object(members) => {
            if members.remove(from).is_some() {
                members.insert(to.to_owned(), with.clone());
            }
            members.values_mut().for_each(|value| set(value, from, to, with));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| set(value, from, to, with)),
        _ => {}
    }
}

#[test]
fn envoy_gateway_is_understood() {
    let report = found(&fixture("envoy-gateway.json"));
    let filter = "envoy.filters.http.ext_authz/securitypolicy/prod/jit";
    let reports = "httproute/prod/reports/rule/0/match/0/pay_example";
    assert_eq!(places(&report, Severity::Critical), [format!("route-not-enabled at {reports}")]);
    assert_eq!(
        places(&report, Severity::Warning),
        [
            "authz-cleartext at securitypolicy/prod/jit/extauth/0".to_owned(),
            "daypass-headers-kept at prod/web/http".to_owned(),
            format!("ext-authz-before-jwt at {filter}"),
            "jwt-no-expiration at envoy.filters.http.jwt_authn".to_owned(),
            format!("jwt-route-uncovered at {reports}"),
            format!("metadata-not-sent at {filter}"),
            format!("timeout-long at {filter}"),
        ]
    );
    assert!(codes(&report).contains("listener-operational"));
}

#[test]
fn contour_is_understood() {
    let report = found(&fixture("contour.json"));
    assert_eq!(
        places(&report, Severity::Critical),
        ["listener-unchecked at 0", "route-unchecked at prefix /public"]
    );
    let unchecked = &report.findings()[0];
    assert_eq!(unchecked.place.listener.as_deref(), Some("ingress_http"));
    assert_eq!(unchecked.what, "route prefix / of virtual host status.example");
    assert_eq!(
        places(&report, Severity::Warning),
        [
            "authz-cleartext at extension/daypass-system/daypass",
            "clear-route-cache at envoy.filters.http.ext_authz",
            "daypass-headers-kept at 0",
            "escaped-slashes at 0",
            "underscore-headers at 0",
        ]
    );
}

#[test]
fn what_cannot_be_seen_is_said() {
    let hardened = fixture("hardened.yaml");
    let elsewhere = "admin: {}\ndynamic_resources: { ads_config: { api_type: GRPC } }\n";
    assert_eq!(codes(&found(elsewhere)), BTreeSet::from(["nothing-to-check"]));
    let start = hardened.find("          route_config:\n").unwrap();
    let end = hardened.find("          http_filters:\n").unwrap();
    let rds =
        [&hardened[..start], "          rds: { route_config_name: elsewhere }\n", &hardened[end..]].concat();
    assert_eq!(codes(&found(&rds)), BTreeSet::from(["routes-unknown", "no-guard"]));
    let scoped = [
        &hardened[..start],
        "          scoped_routes: { name: by-tenant, scoped_rds: {} }\n",
        &hardened[end..],
    ];
    assert_eq!(codes(&found(&scoped.concat())), BTreeSet::from(["routes-unknown", "no-guard"]));
    let unknown = changed(
        &hardened,
        &[(
            "cluster_name: daypass }\n                timeout",
            "cluster_name: elsewhere }\n                timeout",
        )],
    );
    assert_eq!(codes(&found(&unknown)), BTreeSet::from(["authz-cluster-unknown", "no-guard"]));
    let discovered = changed(
        &hardened,
        &[(
            ROUTER,
            "          - { name: later, config_discovery: { type_urls: [some.Filter] } }\n          - name: envoy.filters.http.router\n",
        )],
    );
    assert_eq!(codes(&found(&discovered)), BTreeSet::from(["filter-unknown", "no-guard"]));
    for (text, why) in [
        ("- a\n- b\n", "neither static_resources"),
        ("", "neither static_resources"),
        ("hello", "neither static_resources"),
        ("a: b: c", "line 1"),
        ("{\"a\": ", "not JSON"),
    ] {
        let error = examine(text).unwrap_err();
        assert!(error.contains(why), "{text:?}: {error}");
    }
}

pub fn indented(text: &str, by: &str) -> String {
    text.lines().fold(String::new(), |text, line| text + by + line + "\n")
}

/// A matcher around the filter, a discovered one, a plain struct, and what Envoy refused.
#[test]
fn other_forms_of_the_same() {
    let hardened = fixture("hardened.yaml");
    let conditional = changed(
        &hardened,
        &[(
            CHECK,
            "          - name: envoy.filters.http.ext_authz\n            typed_config:\n              \"@type\": type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher\n              xds_matcher: {}\n              extension_config:\n               name: x\n               typed_config:\n",
        )],
    );
    // What follows belongs one level deeper.
    let (head, tail) = conditional.split_once("               typed_config:\n").unwrap();
    let router = tail.find(ROUTER).unwrap();
    let deeper = indented(&tail[..router], "    ");
    let conditional = [head, "               typed_config:\n", &deeper, &tail[router..]].concat();
    assert!(codes(&found(&conditional)).contains("conditional-check"), "{conditional}");

    let plain = hardened
        .replace("\"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz\n              stat_prefix", "\"@type\": type.googleapis.com/xds.type.v3.TypedStruct\n              type_url: type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz\n              value:\n               stat_prefix");
    let (head, tail) = plain.split_once("               stat_prefix: daypass\n").unwrap();
    let router = tail.find(ROUTER).unwrap();
    let deeper = indented(&tail[..router], " ");
    let plain = [head, "               stat_prefix: daypass\n", &deeper, &tail[router..]].concat();
    assert_eq!(codes(&found(&plain)), BTreeSet::from(["no-guard"]));
    let allows = changed(&plain, &[("failure_mode_allow: false", "failure_mode_allow: true")]);
    assert_eq!(codes(&found(&allows)), BTreeSet::from(["failure-mode-allow", "no-guard"]));

    let mut dump: Value = serde_json::from_str(&fixture("contour.json")).unwrap();
    dump["configs"][2]["dynamic_listeners"][0]["error_state"] = serde_json::json!({"details": "no"});
    assert!(codes(&found(&dump.to_string())).contains("update-rejected"));
    let filters = &mut dump["configs"][2]["dynamic_listeners"][2]["active_state"]["listener"]["filter_chains"]
        [0]["filters"][0]["typed_config"]["http_filters"];
    let check = filters[8].clone();
    assert_eq!(check["name"], "envoy.filters.http.ext_authz");
    filters[8] = serde_json::json!({"name": check["name"], "config_discovery": {"type_urls": ["x"]}});
    let with = serde_json::json!({"@type": "type.googleapis.com/envoy.admin.v3.EcdsConfigDump", "ecds_filters": [{"ecds_filter": {"@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig", "name": check["name"], "typed_config": check["typed_config"]}}]});
    dump["configs"].as_array_mut().unwrap().push(with);
    let found = codes(&found(&dump.to_string()));
    assert!(found.contains("clear-route-cache") && !found.contains("filter-unknown"), "{found:?}");
}

/// Whatever is taken out or put in, there is an answer.
#[test]
fn no_input_makes_it_fail() {
    for name in ["hardened.yaml", "tcp-tunnel.yaml"] {
        let text = fixture(name);
        let lines: Vec<&str> = text.lines().collect();
        for skipped in 0..lines.len() {
            let (before, after) = lines.split_at(skipped);
            let without = [before, &after[1..]].concat().join("\n");
            let _ = examine(&without);
            let _ = examine(&before.join("\n"));
        }
    }
    for name in ["contour.json", "envoy-gateway.json", "istio-sidecar.json"] {
        let document: Value = serde_json::from_str(&fixture(name)).unwrap();
        let count = values(&document);
        for index in 0..count {
            for other in [Value::Null, serde_json::json!("x"), serde_json::json!([{}])] {
                let mut document = document.clone();
                replace(&mut document, &mut index.clone(), &other);
                let _ = examine(&document.to_string());
            }
        }
    }
}

fn values(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(values).sum(),
        Value::Object(members) => members.values().map(values).sum(),
        _ => 0,
    }
}

fn replace(value: &mut Value, left: &mut usize, other: &Value) -> bool {
    if *left == 0 {
        *value = other.clone();
        return true;
    }
    *left -= 1;
    match value {
        Value::Array(items) => items.iter_mut().any(|item| replace(item, left, other)),
        Value::Object(members) => members.values_mut().any(|item| replace(item, left, other)),
        _ => false,
    }
}

#[test]
fn a_running_envoy_says_the_same_as_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let Some(hardened) = prepared(dir.path()) else { return };
    let (code, escape) = FAULTS[0];
    for (text, wanted) in [(hardened.clone(), vec![]), (changed(&hardened, escape), vec![code])] {
        let Some(envoy) = Envoy::start_text(&text, dir.path(), &[]) else { return };
        let output = run(&["doctor", "--json", &format!("http://{}", envoy.admin)]);
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        let found = document["findings"].as_array().unwrap().iter().map(|finding| {
            let mut place = finding["where"].clone();
            place.as_object_mut().unwrap().remove("line");
            (finding["code"].clone(), place, finding["what"].clone())
        });
        let file: Value = found_json(&text, dir.path());
        let other = file["findings"].as_array().unwrap().iter().map(|finding| {
            let mut place = finding["where"].clone();
            place.as_object_mut().unwrap().remove("line");
            (finding["code"].clone(), place, finding["what"].clone())
        });
        assert!(found.eq(other), "{document:#}\n{file:#}");
        assert_eq!(output.status.code(), Some(i32::from(!wanted.is_empty())));
        assert_eq!(document["summary"]["critical"], wanted.len());
    }
}

fn found_json(text: &str, dir: &Path) -> Value {
    let file = write_file(dir, "file.yaml", text);
    serde_json::from_slice(&run(&["doctor", "--json", &file]).stdout).unwrap()
}

#[test]
fn people_and_programs_are_told() {
    let good = path("hardened.yaml");
    let output = run(&["doctor", good.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8(output.stdout).unwrap().ends_with("0 critical, 0 warnings, 1 note\n"));

    let bad =
        changed(&fixture("hardened.yaml"), &[("failure_mode_allow: false", "failure_mode_allow: true")]);
    let mut child =
        binary().args(["doctor", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bad.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    let line = 1 + bad.lines().position(|line| line.contains("failure_mode_allow: true")).unwrap();
    for wanted in [
        "critical failure-mode-allow: while daypass cannot be reached or is too slow, every request passes\n",
        &format!(
            "  at   listener ingress, filter chain 0, filter envoy.filters.http.ext_authz (line {line})"
        ),
        "  fix  failure_mode_allow: false\n",
        "1 critical, 0 warnings, 1 note\n",
    ] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }

    let dir = tempfile::tempdir().unwrap();
    let other = write_file(dir.path(), "other.yaml", "hello: there\n");
    for (source, exit, why) in [
        (other.as_str(), 2, "neither static_resources"),
        ("/nonexistent.yaml", 2, "No such file"),
        ("127.0.0.1:9901", 2, "given as http://127.0.0.1:9901"),
        ("http://127.0.0.1:1/other", 2, "address alone"),
        (&format!("http://127.0.0.1:{}", free_port()), 6, "admin listener"),
    ] {
        let output = run(&["doctor", source]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(exit), "{source}: {text}");
        assert!(text.contains(why) && text.contains(source.trim_end_matches("/other")), "{text}");
    }
    assert_eq!(run(&["doctor"]).status.code(), Some(2));
}

/// Something else listens there.
#[test]
fn what_is_no_admin_is_said() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
        }
    });
    let output = run(&["doctor", &url]);
    assert_eq!(output.status.code(), Some(6));
    assert!(String::from_utf8(output.stderr).unwrap().contains("404"));
}

/// The document lists every code once, under its severity, with what the command says.
#[test]
fn the_document_lists_all_codes() {
    let document = std::fs::read_to_string(Path::new(ROOT).join("docs/doctor.md")).unwrap();
    let mut listed = Vec::new();
    let mut severity = String::new();
    for line in document.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            severity = title.to_lowercase();
        }
        if let Some((code, _)) = line.strip_prefix("- `").and_then(|rest| rest.split_once("`:")) {
            listed.push(format!("{severity} {code}"));
        }
    }
    let mut wanted: Vec<String> =
        Code::ALL.iter().map(|code| format!("{} {}", code.severity().name(), code.name())).collect();
    listed.sort();
    wanted.sort();
    assert_eq!(listed, wanted);
    let words = document.split_whitespace().collect::<Vec<_>>().join(" ");
    for code in Code::ALL {
        let entry = format!("- `{}`: {}. Fix: ", code.name(), code.why());
        assert!(words.contains(&entry), "{entry}");
        assert!(words.contains(code.fix()), "{}", code.fix());
    }
}
