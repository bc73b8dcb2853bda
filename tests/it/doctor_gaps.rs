//! Ways around the check that look harmless: each is a hardened configuration with one thing changed, was tried on a real
//! Envoy, and must be found by `daypass doctor`; and what looks harmful and is not must stay silent.

use std::collections::BTreeSet;
use std::process::Command;

use daypass::doctor::Severity;

use crate::doctor::{
    APP, CHECK, CLUSTERS, Change, DENY_AT_DISABLE, GUARD, ROUTER, STAT, TRUSTED, changed, codes, fixture,
    found, indented, places, prepared,
};
use crate::support::daypass::write_file;
use crate::support::tool;

macro_rules! filters {
    ($text:expr) => {
        concat!("type.googleapis.com/envoy.extensions.filters.http.", $text)
    };
}

/// A filter before the router, and one before the check.
macro_rules! behind {
    ($name:literal, $fields:expr) => {
        (
            ROUTER,
            concat!(
                "          - name: ",
                $name,
                "\n            typed_config: ",
                $fields,
                "\n          - name: envoy.filters.http.router\n"
            ),
        )
    };
}
macro_rules! before {
    ($name:literal, $fields:expr) => {
        (
            CHECK,
            concat!(
                "          - name: ",
                $name,
                "\n",
                $fields,
                "          - name: envoy.filters.http.ext_authz\n            typed_config:\n"
            ),
        )
    };
}

/// What the route of the application says beside its action.
macro_rules! route {
    ($action:literal, $more:expr) => {
        (APP, concat!("route: { ", $action, " }\n", $more))
    };
}
macro_rules! per_filter {
    ($settings:expr) => {
        concat!("                typed_per_filter_config: { ", $settings, " }\n")
    };
}

macro_rules! second {
    ($address:literal, $more:literal, $routes:literal, $filters:expr) => {
        (
            CLUSTERS,
            concat!(
                "  - name: second\n    address: { socket_address: { address: ",
                $address,
                ", port_value: 10001 } }\n",
                $more,
                "    filter_chains:\n    - filters:\n      - name: hcm\n        typed_config:\n          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          stat_prefix: second\n          route_config: { virtual_hosts: [{ name: all, domains: [\"*\"], routes: [",
                $routes,
                "] }] }\n          http_filters: [",
                $filters,
                "]\n  clusters:\n"
            ),
        )
    };
}

macro_rules! plain_router {
    () => {
        "{ name: r, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router } }"
    };
}

macro_rules! scripts {
    ($text:literal) => {
        concat!(
            "{ \"@type\": ",
            filters!("lua.v3.Lua"),
            ", default_source_code: { inline_string: \"",
            $text,
            "\" } }"
        )
    };
}

const OFF: &str = per_filter!(concat!(
    "envoy.filters.http.ext_authz: { \"@type\": ",
    filters!("ext_authz.v3.ExtAuthzPerRoute"),
    ", disabled: true }"
));

/// Rules that mark what is to be checked, as a mesh writes them.
macro_rules! marks {
    ($more:literal, $policies:literal) => {
        before!(
            "marks",
            concat!(
                $more,
                "            typed_config:\n              \"@type\": ",
                filters!("rbac.v3.RBAC"),
                "\n              shadow_rules_stat_prefix: mesh_\n              shadow_rules: { action: DENY, policies: { ",
                $policies,
                " } }\n"
            )
        )
    };
}
const BY_MARK: Change = (
    STAT,
    "              filter_enabled_metadata: { filter: envoy.filters.http.rbac, path: [{ key: mesh_shadow_effective_policy_id }], value: { string_match: { prefix: mesh- } } }\n",
);
/// A gateway's way to leave routes out: a filter that is disabled in the chain marks them.
const UNLESS_MARKED: Change = (
    STAT,
    "              filter_enabled_metadata: { filter: gate, path: [{ key: skip }], value: { bool_match: true }, invert: true }\n",
);
macro_rules! marker {
    ($more:literal) => {
        before!(
            "marker",
            concat!(
                $more,
                "            typed_config: { \"@type\": ",
                filters!("set_metadata.v3.Config"),
                ", metadata: [{ metadata_namespace: gate, value: { skip: true } }] }\n"
            )
        )
    };
}

const ADMIN_CLUSTER: &str = "  - name: upstream\n    type: STATIC\n";
const WITH_ADMIN: &str = "  - name: admin\n    type: STATIC\n    load_assignment: { cluster_name: admin, endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 9901 } } } }] }] }\n  - name: upstream\n    type: STATIC\n";
const ORIGINAL_DST: &str = "  - { name: od, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, original_dst_lb_config: { use_http_header: true } }\n  - name: upstream\n    type: STATIC\n";
const RETRIES: &str = "retry_policy: { retry_on: \"5xx,reset\", num_retries: 3 }";
const NO_CAP: Change =
    ("            max_stream_duration: 28800s                          # = longest grant\n", "");

/// What is changed, what must be found, and nothing else.
const GAPS: &[(&str, &[&str], &[Change])] = &[
    (
        "an upgrade has filters of its own",
        &["listener-unchecked"],
        &[(
            "upgrade_configs: [{ upgrade_type: websocket }]",
            concat!("upgrade_configs: [{ upgrade_type: websocket, filters: [", plain_router!(), "] }]"),
        )],
    ),
    (
        "an empty setting of the route before one of the virtual host",
        &["route-unchecked"],
        &[
            (
                "check_settings: { context_extensions: { daypass_resource: svc, daypass_env: dev } }",
                "disabled: true",
            ),
            route!(
                "cluster: upstream, timeout: 0s",
                per_filter!(
                    "envoy.filters.http.ext_authz: { \"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, config: {} }"
                )
            ),
        ],
    ),
    (
        "any certificate is good where none is demanded",
        &["client-cert-unverified"],
        &[(
            TRUSTED,
            "            validation_context: { trusted_ca: { filename: envoy/keys/ca.crt }, trust_chain_verification: ACCEPT_UNTRUSTED }\n",
        )],
    ),
    (
        "a secret of the same file says so",
        &["client-cert-unverified"],
        &[
            (TRUSTED, "            validation_context_sds_secret_config: { name: ca }\n"),
            (
                "static_resources:\n",
                "static_resources:\n  secrets: [{ name: ca, validation_context: { trusted_ca: { filename: envoy/keys/ca.crt }, trust_chain_verification: ACCEPT_UNTRUSTED } }]\n",
            ),
        ],
    ),
    (
        "a certificate after its end",
        &["client-cert-expired"],
        &[(
            TRUSTED,
            "            validation_context: { trusted_ca: { filename: envoy/keys/ca.crt }, allow_expired_certificate: true }\n",
        )],
    ),
    (
        "outbound, for anybody to connect to",
        &["listener-unchecked"],
        &[second!(
            "0.0.0.0",
            "    traffic_direction: OUTBOUND\n",
            "{ match: { prefix: / }, route: { cluster: upstream } }",
            plain_router!()
        )],
    ),
    (
        "outbound, for this machine",
        &["listener-outbound"],
        &[second!(
            "127.0.0.1",
            "    traffic_direction: OUTBOUND\n",
            "{ match: { prefix: / }, route: { cluster: upstream } }",
            plain_router!()
        )],
    ),
    (
        "rules that mark every request",
        &["checked-by-all-rules"],
        &[marks!("", "mesh-a: { permissions: [{ any: true }], principals: [{ any: true }] }"), BY_MARK],
    ),
    (
        "rules that mark and do not run",
        &["enabled-by-metadata"],
        &[
            marks!(
                "            disabled: true\n",
                "mesh-a: { permissions: [{ any: true }], principals: [{ any: true }] }"
            ),
            BY_MARK,
        ],
    ),
    (
        "rules that mark and are off for a route",
        &["checked-by-all-rules", "route-unchecked"],
        &[
            marks!("", "mesh-a: { permissions: [{ any: true }], principals: [{ any: true }] }"),
            BY_MARK,
            route!(
                "cluster: upstream, timeout: 0s",
                per_filter!(concat!("marks: { \"@type\": ", filters!("rbac.v3.RBACPerRoute"), " }"))
            ),
        ],
    ),
    (
        "a rule that comes first and marks nothing",
        &["checked-by-rules"],
        &[
            marks!(
                "",
                "aaa: { permissions: [{ url_path: { path: { prefix: /admin } } }], principals: [{ any: true }] }, mesh-a: { permissions: [{ any: true }], principals: [{ any: true }] }"
            ),
            BY_MARK,
        ],
    ),
    ("a mark that no route sets", &[], &[marker!("            disabled: true\n"), UNLESS_MARKED]),
    (
        "a mark that a route sets",
        &["route-unchecked"],
        &[
            marker!("            disabled: true\n"),
            UNLESS_MARKED,
            route!(
                "cluster: upstream, timeout: 0s",
                per_filter!(
                    "marker: { \"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, config: {} }"
                )
            ),
        ],
    ),
    ("a mark on every request", &["enabled-by-metadata"], &[marker!(""), UNLESS_MARKED]),
    (
        "a timeout begins when the request is complete",
        &["retry-outlives-grant"],
        &[(
            APP,
            "route: { cluster: upstream, timeout: 1s, retry_policy: { retry_on: \"5xx,reset\", num_retries: 3 } }\n",
        )],
    ),
    (
        "a cap begins with the stream",
        &[],
        &[(
            APP,
            "route: { cluster: upstream, timeout: 0s, max_stream_duration: { max_stream_duration: 30s }, retry_policy: { retry_on: 5xx } }\n",
        )],
    ),
    (
        "retries before anything was sent",
        &[],
        &[(
            APP,
            "route: { cluster: upstream, timeout: 0s, retry_policy: { retry_on: \"connect-failure, refused-stream\" } }\n",
        )],
    ),
    (
        "daypass' headers by name, so not all of them",
        &["daypass-headers-kept"],
        &[(
            "              - remove_on_match: { key_matcher: { prefix: x-daypass- } }\n",
            "              - remove: x-daypass-grant\n              - remove: x-daypass-expires\n",
        )],
    ),
    ("headers of another prefix", &["deadline-dropped"], &[("admin:\n", "header_prefix: x-acme\nadmin:\n")]),
    (
        "a route's own mutations",
        &["deadline-removed"],
        &[
            route!(
                "cluster: upstream, timeout: 0s",
                per_filter!(concat!(
                    "edit: { \"@type\": ",
                    filters!("header_mutation.v3.HeaderMutationPerRoute"),
                    ", mutations: { request_mutations: [{ remove: x-envoy-upstream-stream-duration-ms }] } }"
                ))
            ),
            behind!(
                "edit",
                concat!("{ \"@type\": ", filters!("header_mutation.v3.HeaderMutation"), ", mutations: {} }")
            ),
        ],
    ),
    (
        "a weighted cluster's own removal",
        &["deadline-removed"],
        &[route!(
            "weighted_clusters: { clusters: [{ name: upstream, weight: 1, request_headers_to_remove: [x-envoy-upstream-stream-duration-ms] }] }, timeout: 0s",
            ""
        )],
    ),
    (
        "a header that becomes metadata and goes",
        &["deadline-removed"],
        &[behind!(
            "h2m",
            concat!(
                "{ \"@type\": ",
                filters!("header_to_metadata.v3.Config"),
                ", request_rules: [{ header: x-envoy-upstream-stream-duration-ms, on_header_present: { key: d }, remove: true }] }"
            )
        )],
    ),
    (
        "the header against retries",
        &["max-retries-removed"],
        &[route!(
            "cluster: upstream, timeout: 0s",
            "                request_headers_to_remove: [x-envoy-max-retries]\n"
        )],
    ),
    (
        "a header names the address",
        &["original-dst-header"],
        &[route!("cluster: od, timeout: 0s", ""), (ADMIN_CLUSTER, ORIGINAL_DST)],
    ),
    (
        "statistics with a way to all of the admin",
        &["admin-exposed", "listener-unchecked"],
        &[
            (ADMIN_CLUSTER, WITH_ADMIN),
            second!(
                "0.0.0.0",
                "",
                "{ match: { prefix: /stats/ }, route: { cluster: admin, prefix_rewrite: / } }",
                plain_router!()
            ),
        ],
    ),
    (
        "statistics and no more",
        &["listener-operational"],
        &[
            (ADMIN_CLUSTER, WITH_ADMIN),
            second!(
                "0.0.0.0",
                "",
                "{ match: { prefix: /stats/prometheus }, route: { cluster: admin } }",
                plain_router!()
            ),
        ],
    ),
    (
        "/health begins other words",
        &["listener-unchecked"],
        &[second!(
            "0.0.0.0",
            "",
            "{ match: { prefix: /health }, route: { cluster: upstream } }",
            plain_router!()
        )],
    ),
    (
        "a route's own script",
        &["route-cache-cleared-after-check"],
        &[
            route!(
                "cluster: upstream, timeout: 0s",
                per_filter!(concat!(
                    "script: { \"@type\": ",
                    filters!("lua.v3.LuaPerRoute"),
                    ", source_code: { inline_string: \"function envoy_on_request(h) h:clearRouteCache() end\" } }"
                ))
            ),
            behind!("script", scripts!("function envoy_on_response(h) end")),
        ],
    ),
    (
        "a transformation that takes the route again",
        &["route-cache-cleared-after-check"],
        &[behind!(
            "edit",
            concat!(
                "{ \"@type\": ",
                filters!("transform.v3.TransformConfig"),
                ", request_transformation: { headers_mutations: [{ append: { header: { key: x-a, value: b } } }] }, clear_route_cache: true }"
            )
        )],
    ),
    (
        "a script in a chain within the chain",
        &["route-cache-cleared-after-check"],
        &[behind!(
            "chain",
            concat!(
                "{ \"@type\": ",
                filters!("filter_chain.v3.FilterChainConfig"),
                ", default_filter_chain: { filters: [{ name: script, typed_config: ",
                scripts!("function envoy_on_request(h) h:clearRouteCache() end"),
                " }] } }"
            )
        )],
    ),
    (
        "a script that a matcher chooses",
        &["conditional-filter", "route-cache-cleared-after-check"],
        &[behind!(
            "chosen",
            concat!(
                "{ \"@type\": type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher, extension_config: { name: composite, typed_config: { \"@type\": ",
                filters!("composite.v3.Composite"),
                " } }, xds_matcher: { matcher_tree: { input: { name: header, typed_config: { \"@type\": type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: x-check } }, exact_match_map: { map: { \"yes\": { action: { name: run, typed_config: { \"@type\": ",
                filters!("composite.v3.ExecuteFilterAction"),
                ", typed_config: { name: script, typed_config: ",
                scripts!("function envoy_on_request(h) h:clearRouteCache() end"),
                " } } } } } } } } }"
            )
        )],
    ),
    (
        "a comment in a script does nothing",
        &[],
        &[behind!("script", scripts!("-- never clearRouteCache here\\nfunction envoy_on_response(h) end"))],
    ),
    (
        "the cache of another version",
        &["ext-authz-after-cache"],
        &[before!(
            "cache",
            concat!(
                "            typed_config: { \"@type\": ",
                filters!("cache_v2.v3.CacheV2Config"),
                ", typed_config: { \"@type\": type.googleapis.com/envoy.extensions.http.cache_v2.simple_http_cache.v3.SimpleHttpCacheV2Config } }\n"
            )
        )],
    ),
    (
        "files before the check",
        &["ext-authz-after-files"],
        &[before!(
            "files",
            concat!(
                "            typed_config: { \"@type\": ",
                filters!("file_server.v3.FileServerConfig"),
                ", manager_config: { thread_pool: { thread_count: 1 } }, path_mappings: [{ request_path_prefix: /files, file_path_prefix: www }] }\n"
            )
        )],
    ),
    (
        "an end of the chain that needs no route",
        &["listener-unchecked"],
        &[second!(
            "0.0.0.0",
            "",
            "{ match: { prefix: / }, direct_response: { status: 404 } }",
            concat!(
                "{ name: a, typed_config: { \"@type\": ",
                filters!("mcp.v3.Mcp"),
                " } }, { name: b, typed_config: { \"@type\": ",
                filters!("mcp_router.v3.McpRouter"),
                ", servers: [{ name: a, mcp_cluster: { cluster: upstream, path: /mcp } }] } }"
            )
        )],
    ),
    (
        "claims from a header",
        &["identity-from-headers"],
        &[before!(
            "h2m",
            concat!(
                "            typed_config: { \"@type\": ",
                filters!("header_to_metadata.v3.Config"),
                ", request_rules: [{ header: x-claims, on_header_present: { metadata_namespace: envoy.filters.http.jwt_authn, key: jwt_payload } }] }\n"
            )
        )],
    ),
    (
        "claims from a script",
        &["identity-from-headers"],
        &[before!(
            "script",
            concat!(
                "            typed_config: ",
                scripts!(
                    "function envoy_on_request(h) h:streamInfo():dynamicMetadata():set('envoy.filters.http.jwt_authn', 'jwt_payload', {}) end"
                ),
                "\n"
            )
        )],
    ),
    (
        "both switches at runtime",
        &["runtime-switch"],
        &[(
            DENY_AT_DISABLE,
            "deny_at_disable: { default_value: { value: true }, runtime_key: daypass.deny_at_disable }\n              filter_enabled: { runtime_key: daypass.percent, default_value: { numerator: 100, denominator: HUNDRED } }",
        )],
    ),
    (
        "both switches off at runtime",
        &["enabled-fraction", "runtime-switch"],
        &[
            (
                DENY_AT_DISABLE,
                "deny_at_disable: { default_value: { value: true }, runtime_key: daypass.deny_at_disable }\n              filter_enabled: { runtime_key: daypass.percent, default_value: { numerator: 100, denominator: HUNDRED } }",
            ),
            (
                "admin:\n",
                "layered_runtime: { layers: [{ name: s, static_layer: { daypass: { deny_at_disable: false }, daypass.percent: 0 } }] }\nadmin:\n",
            ),
        ],
    ),
    (
        "slashes, off at runtime",
        &["escaped-slashes"],
        &[(
            "admin:\n",
            "layered_runtime: { layers: [{ name: s, static_layer: { http_connection_manager.path_with_escaped_slashes_action_enabled: 0 } }] }\nadmin:\n",
        )],
    ),
    (
        "slashes that are unescaped before anybody looks",
        &["escaped-slashes-unescaped"],
        &[("REJECT_REQUEST\n          strip_any", "UNESCAPE_AND_FORWARD\n          strip_any")],
    ),
    (
        "datagrams that pass when nobody answers",
        &["failure-mode-allow"],
        &[(
            CLUSTERS,
            "  - name: dns\n    address: { socket_address: { protocol: UDP, address: 127.0.0.1, port_value: 10053 } }\n    listener_filters:\n    - name: udp\n      typed_config:\n        \"@type\": type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig\n        stat_prefix: dns\n        session_filters: [{ name: a, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.session.ext_authz.v3.FilterConfig, stat_prefix: a, failure_mode_allow: true, grpc_service: { envoy_grpc: { cluster_name: daypass } } } }]\n        matcher: { on_no_match: { action: { name: route, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.Route, cluster: upstream } } } }\n  clusters:\n",
        )],
    ),
    (
        "the host from a header",
        &["host-rewrite-header"],
        &[route!("cluster: upstream, timeout: 0s, host_rewrite_header: x-host", "")],
    ),
    (
        "a clock that is hours off",
        &["jwt-clock-skew"],
        &[("clock_skew_seconds: 10", "clock_skew_seconds: 36000")],
    ),
    (
        "keys that anybody between can change",
        &["jwks-cleartext"],
        &[
            (
                "local_jwks: { filename: envoy/keys/jwks.json }",
                "remote_jwks: { http_uri: { uri: \"http://idp.test/keys\", cluster: idp, timeout: 5s } }",
            ),
            (
                ADMIN_CLUSTER,
                "  - name: idp\n    type: STATIC\n    load_assignment: { cluster_name: idp, endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: 192.0.2.7, port_value: 80 } } } }] }] }\n  - name: upstream\n    type: STATIC\n",
            ),
        ],
    ),
    (
        "rules by what a filter says",
        &[],
        &[(
            "              rules:\n              - match: { path: /healthz }\n              - match: { prefix: / }\n                requires: { provider_name: idp }\n",
            "              filter_state_rules: { name: k, requires: { a: { provider_name: idp } } }\n",
        )],
    ),
    (
        "an admin for statistics alone",
        &[],
        &[(
            "  address: { socket_address: { address: 127.0.0.1, port_value: 9901 } }   # never",
            "  allow_paths: [{ exact: /stats/prometheus }, { exact: /ready }]\n  address: { socket_address: { address: 0.0.0.0, port_value: 9901 } }   # never",
        )],
    ),
    (
        "checks that are made again",
        &["check-retries"],
        &[(
            "                timeout: 0.25s\n              failure",
            "                timeout: 0.25s\n                retry_policy: { num_retries: 1 }\n              failure",
        )],
    ),
    (
        "checks that are made again in time",
        &[],
        &[(
            "                timeout: 0.25s\n              failure",
            "                timeout: 0.25s\n                retry_policy: { num_retries: 1, retry_back_off: { base_interval: 0.005s, max_interval: 0.02s } }\n              failure",
        )],
    ),
    (
        "further listeners come by discovery",
        &["listeners-unknown"],
        &[(
            "admin:\n",
            "node: { id: a, cluster: b }\ndynamic_resources: { lds_config: { path_config_source: { path: lds.yaml } } }\nadmin:\n",
        )],
    ),
];

#[test]
fn each_gap_is_found_and_nothing_else() {
    let hardened = fixture("hardened.yaml");
    for (name, wanted, changes) in GAPS {
        let report = found(&changed(&hardened, changes));
        let wanted: BTreeSet<&str> = wanted.iter().copied().chain(["no-guard"]).collect();
        assert_eq!(codes(&report), wanted, "{name}\n{report:#?}");
    }
}

/// They are configurations that somebody may run.
#[test]
fn envoy_takes_the_configurations_with_gaps() {
    let Some(envoy) = tool("envoy") else { return };
    let dir = tempfile::tempdir().unwrap();
    let Some(hardened) = prepared(dir.path()) else { return };
    write_file(dir.path(), "lds.yaml", "resources: []\n");
    let mut refused = Vec::new();
    for (index, (name, _, changes)) in GAPS.iter().enumerate() {
        let file = write_file(dir.path(), &format!("{index}.yaml"), &changed(&hardened, changes));
        let mut command = Command::new(&envoy);
        command.current_dir(dir.path()).args(["--mode", "validate", "-l", "error", "-c", &file]);
        let output = command.output().unwrap();
        if !output.status.success() {
            refused.push(format!("{name}: {}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

/// Each lets a route pass that ext_authz is off for, so it is no guard.
#[test]
fn a_guard_must_demand_the_metadata_of_everybody() {
    let off = route!("cluster: upstream, timeout: 0s", "");
    let off = (off.0, Box::leak(format!("{}{OFF}", off.1).into_boxed_str()) as &str);
    let guarded = (ROUTER, Box::leak(format!("{GUARD}{ROUTER}").into_boxed_str()) as &str);
    let guarded = changed(&fixture("hardened.yaml"), &[off, guarded]);
    assert_eq!(codes(&found(&guarded)), BTreeSet::new());
    let faults: [(&str, Change); 6] = [
        (
            "another policy allows",
            (
                "                  decided:\n",
                "                  other: { permissions: [{ any: true }], principals: [{ any: true }] }\n                  decided:\n",
            ),
        ),
        ("any other one allows", ("principals: [{ sourced", "principals: [{ any: true }, { sourced")),
        ("inverted", ("value: { present_match: true }", "value: { present_match: true }, invert: true")),
        ("null", ("value: { present_match: true }", "value: { null_match: {} }")),
        ("of the route", ("metadata_source: DYNAMIC", "metadata_source: ROUTE")),
        ("negated", ("principals: [{ sourced", "principals: [{ not_id: { any: true } }, { sourced")),
    ];
    for (name, fault) in faults {
        let report = found(&changed(&guarded, &[fault]));
        assert_eq!(codes(&report), BTreeSet::from(["no-guard", "route-unchecked"]), "{name}");
    }
    let not = changed(
        &guarded,
        &[
            ("principals: [{ sourced", "principals: [{ not_id: { sourced"),
            ("value: { present_match: true } } } }]", "value: { present_match: true } } } } }]"),
        ],
    );
    assert_eq!(codes(&found(&not)), BTreeSet::from(["no-guard", "route-unchecked"]));
    // Rules of the route's own that demand nothing.
    let own = Box::leak(
        format!(
            "ExtAuthzPerRoute, disabled: true }}, guard: {{ \"@type\": {}, rbac: {{ }} }} }}\n          http_filters:",
            filters!("rbac.v3.RBACPerRoute")
        )
        .into_boxed_str(),
    );
    let own = changed(&guarded, &[("ExtAuthzPerRoute, disabled: true } }\n          http_filters:", own)]);
    assert_eq!(codes(&found(&own)), BTreeSet::from(["route-unchecked"]));
}

/// TLS below a socket that counts or taps is TLS.
#[test]
fn sockets_around_tls_are_looked_through() {
    let hardened = fixture("hardened.yaml");
    let start = hardened.find("        name: envoy.transport_sockets.tls\n").unwrap();
    let end = hardened.find("      filters:\n").unwrap();
    let inner = indented(&hardened[start..end], "    ");
    let around = "        name: stats\n        typed_config:\n          \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tcp_stats.v3.Config\n          transport_socket:\n";
    let wrapped = [&hardened[..start], around, &inner, &hardened[end..]].concat();
    assert_eq!(codes(&found(&wrapped)), BTreeSet::from(["no-guard"]));
    let untrusted = wrapped.replace(
        "validation_context: { ",
        "validation_context: { trust_chain_verification: ACCEPT_UNTRUSTED, ",
    );
    assert_eq!(codes(&found(&untrusted)), BTreeSet::from(["client-cert-unverified", "no-guard"]));
    // The same on the way to daypass.
    let far = [
        ("{ pipe: { path: daypass.sock } }", "{ socket_address: { address: 192.0.2.5, port_value: 9191 } }"),
        (
            "  - name: daypass\n    type: STATIC\n",
            "  - name: daypass\n    type: STATIC\n    transport_socket: { name: stats, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tcp_stats.v3.Config, transport_socket: { name: tls, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: { validation_context: { trusted_ca: { filename: envoy/keys/ca.crt } } } } } } }\n",
        ),
    ];
    assert_eq!(codes(&found(&changed(&hardened, &far))), BTreeSet::from(["no-guard"]));
}

/// Without ext_authz in the chain that is seen, one in a chain within it still counts.
#[test]
fn a_check_in_a_chain_within_the_chain_is_one() {
    let hardened = fixture("hardened.yaml");
    let start = hardened.find(CHECK).unwrap();
    let end = hardened.find(ROUTER).unwrap();
    let inner = indented(&hardened[start..end], "      ");
    let around = concat!(
        "          - name: chain\n            typed_config:\n              \"@type\": ",
        filters!("filter_chain.v3.FilterChainConfig"),
        "\n              default_filter_chain:\n                filters:\n"
    );
    let nested = [&hardened[..start], around, &inner, &hardened[end..]].concat();
    assert_eq!(codes(&found(&nested)), BTreeSet::from(["no-guard"]));
    let open = changed(&nested, &[("failure_mode_allow: false", "failure_mode_allow: true")]);
    assert_eq!(codes(&found(&open)), BTreeSet::from(["failure-mode-allow", "no-guard"]));
    let off = route!(
        "cluster: upstream, timeout: 0s",
        per_filter!(
            "chain: { \"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true }"
        )
    );
    assert_eq!(codes(&found(&changed(&nested, &[off]))), BTreeSet::from(["route-unchecked", "no-guard"]));
}

#[test]
fn connections_by_discovery_are_said_to_be_unknown() {
    let bootstrap = "static_resources:\n  listeners:\n  - name: a\n    filter_chains: [{ filters: [{ name: hcm, config_discovery: { type_urls: [x] } }] }]\n";
    assert_eq!(codes(&found(bootstrap)), BTreeSet::from(["filter-unknown"]));
}

/// Only what this Envoy makes itself is free of what clients write, and only where nothing else chooses the cluster.
#[test]
fn a_way_inside_without_a_tunnel_brings_the_clients_requests() {
    let tunnel = fixture("tcp-tunnel.yaml");
    assert!(found(&tunnel).is_clean());
    let raw = changed(
        &tunnel,
        &[("          tunneling_config:\n", "          metadata_match:\n           filter_metadata:\n")],
    );
    let found_raw = codes(&found(&raw));
    for code in ["path-not-normalized", "remote-address-unset", "underscore-headers"] {
        assert!(found_raw.contains(code), "{code}: {found_raw:?}");
    }
    for chooser in [
        "      - { name: s, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.network.sni_cluster.v3.SniCluster } }\n",
        "      - { name: s, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config, on_new_connection: [{ object_key: envoy.tcp_proxy.cluster, format_string: { text_format_source: { inline_string: upstream } } }] } }\n",
    ] {
        let proxy = "      - name: envoy.filters.network.tcp_proxy\n";
        let both = Box::leak(format!("{chooser}{proxy}").into_boxed_str());
        let report = found(&changed(&tunnel, &[(proxy, both)]));
        let at = ["tcp-unchecked at envoy.filters.network.tcp_proxy"];
        assert_eq!(places(&report, Severity::Critical), at, "{chooser}");
    }
}

/// Envoy refuses a field in both spellings or takes one of them, by what it reads the file with.
#[test]
fn a_field_in_both_spellings_is_said() {
    let both = "failure_mode_allow: false\n              failureModeAllow: true";
    let both = changed(&fixture("hardened.yaml"), &[("failure_mode_allow: false", both)]);
    let report = found(&both);
    assert_eq!(codes(&report), BTreeSet::from(["ambiguous-field", "no-guard"]));
    assert!(report.findings()[0].place.line.is_some());
}

/// Caps of the listener count where the route says nothing.
#[test]
fn a_short_cap_of_the_listener_bounds_retries() {
    let hardened = fixture("hardened.yaml");
    let retries =
        Box::leak(format!("route: {{ cluster: upstream, timeout: 0s, {RETRIES} }}\n").into_boxed_str());
    let retries: Change = (APP, retries);
    let short: Change = (NO_CAP.0, "            max_stream_duration: 30s\n");
    assert_eq!(codes(&found(&changed(&hardened, &[retries, short]))), BTreeSet::from(["no-guard"]));
    let none = codes(&found(&changed(&hardened, &[retries, NO_CAP])));
    assert_eq!(none, BTreeSet::from(["no-guard", "no-stream-cap", "retry-outlives-grant"]));
}
