//! Who the caller is: tokens, certificates, addresses, and the headers that only daypass or Envoy may write.

use super::authz_filter::names;
use super::cluster::{accepts_expired, accepts_untrusted, is_cleartext, tls, verifies};
use super::codes::Code;
use super::http::Http;
use super::model::{EXT_AUTHZ, Filter, JWT, Model};
use super::node::{Node, Typed};
use super::order::{code, mutated};
use super::report::{Place, Report};
use super::routes::Target;

/// Clocks that differ by more seconds than this are wrong.
const LONG_SKEW: f64 = 300.0;
const JWT_NAMESPACE: &str = "envoy.filters.http.jwt_authn";
/// What an upstream takes for daypass' word.
const DAYPASS_HEADERS: [&str; 2] = ["x-daypass-grant", "x-daypass-expires"];
/// Stands for those that a policy sets and that are not there yet.
const OTHER_DAYPASS_HEADER: &str = "x-daypass-any-other";
/// What Envoy takes for daypass' word, and daypass for Envoy's.
const ENVOY_HEADERS: [&str; 3] =
    ["x-envoy-upstream-stream-duration-ms", "x-envoy-max-retries", "x-envoy-auth-partial-body"];
/// A range with a shorter prefix is more than the peers of one proxy.
const NARROW_PREFIX: [f64; 2] = [24.0, 64.0];

pub fn examine(http: &Http<'_>, report: &mut Report) {
    tokens(http, report);
    certificates(http, report);
    made_up(http, report);
    // Who speaks at the end of a tunnel is this Envoy.
    if http.ends_tunnels() {
        return;
    }
    addresses(http.fields, &http.place, report);
    headers(http, report);
}

/// Filters that can write where daypass looks for what is verified.
const WRITERS: [&str; 3] =
    ["header_to_metadata.v3.Config", "json_to_metadata.v3.JsonToMetadata", "set_metadata.v3.Config"];

/// What comes to daypass as verified, and is what a request says or what somebody wrote for all.
fn made_up(http: &Http<'_>, report: &mut Report) {
    for (index, check) in http.filters.iter().enumerate().filter(|(_, filter)| filter.is(EXT_AUTHZ)) {
        let lists = ["metadata_context_namespaces", "typed_metadata_context_namespaces"];
        let sent: Vec<&str> = lists
            .iter()
            .flat_map(|list| check.fields.get(list).items())
            .map(Node::text)
            .filter(|name| !name.is_empty())
            .collect();
        for filter in &http.filters[..index] {
            let place = http.place.filter(&filter.name, filter.line);
            let own = http.routes.targets.iter().filter_map(|target| {
                Some((target.settings(filter)?.fields, target.place.filter(&filter.name, None)))
            });
            for (node, place) in std::iter::once((&filter.outer, place)).chain(own) {
                node.each_message(&mut |typed| {
                    for name in sent.iter().filter(|name| writes(typed, name)) {
                        report.add(Code::IdentityFromHeaders, &place, format!("it writes {name}"));
                    }
                });
            }
        }
    }
}

fn writes(typed: Typed<'_>, namespace: &str) -> bool {
    if WRITERS.iter().any(|writer| typed.name.ends_with(writer)) {
        return typed.fields.any_text(&|text| text == namespace);
    }
    let is_script = ["lua.v3.Lua", "lua.v3.LuaPerRoute"].iter().any(|kind| typed.name.ends_with(kind));
    is_script
        && typed.fields.any_text(&|text| {
            let says = |word: &str| code(text).any(|line| line.contains(word));
            says("dynamicMetadata") && says(namespace)
        })
}

fn addresses(hcm: &Node, place: &Place, report: &mut Report) {
    if !hcm.get("use_remote_address").is_true() {
        let line = hcm.get("use_remote_address").line();
        report.add(Code::RemoteAddress, &place.at(line), "use_remote_address is not true");
    }
    let internal = hcm.get("internal_address_config");
    if internal.is_set() {
        let ranges = internal.get("cidr_ranges").items();
        let broad = ranges.iter().filter(|range| is_broad(range));
        let broad: Vec<&str> = broad.map(|range| range.get("address_prefix").text()).collect();
        let place = place.at(internal.line());
        if ranges.is_empty() {
            report.add(
                Code::InternalAddresses,
                &place,
                "an empty list makes loopback and all private addresses internal",
            );
        } else if !broad.is_empty() {
            report.add(Code::InternalAddresses, &place, format!("a range is wide: {}", broad.join(", ")));
        }
    }
    let hops = hcm.get("xff_num_trusted_hops");
    if hops.number().is_some_and(|hops| hops > 0.0) {
        let what = format!("xff_num_trusted_hops: {}", hops.number().unwrap_or_default());
        report.add(Code::TrustedHops, &place.at(hops.line()), what);
    }
}

fn is_broad(range: &Node) -> bool {
    let address = range.get("address_prefix").text();
    let length = range.get("prefix_len").number().unwrap_or(0.0);
    let is_loopback = address.starts_with("127.") && length >= 8.0 || address == "::1" && length >= 128.0;
    let narrow = NARROW_PREFIX[usize::from(address.contains(':'))];
    !is_loopback && length < narrow
}

/// Whether a header of the client is gone before the first filter that could believe it.
pub fn is_removed(http: &Http<'_>, header: &str) -> bool {
    let early = http.fields.get("early_header_mutation_extensions").items().iter();
    let early = early.flat_map(|extension| extension.typed_config().fields.get("mutations").items());
    let before = http.filters.iter().take_while(|filter| !filter.may_be_ext_authz());
    let before = before
        .filter(|filter| filter.message.ends_with("header_mutation.v3.HeaderMutation") && !filter.is_disabled)
        .flat_map(|filter| filter.fields.at(&["mutations", "request_mutations"]).items());
    let edge = http.routes.configs.iter().flat_map(|config| config.get("internal_only_headers").items());
    early.chain(before).any(|mutation| removes(mutation, header))
        || edge.into_iter().any(|name| name.text().eq_ignore_ascii_case(header))
}

fn removes(mutation: &Node, header: &str) -> bool {
    mutation.get("remove").text().eq_ignore_ascii_case(header)
        || names(mutation.at(&["remove_on_match", "key_matcher"]), header)
}

fn headers(http: &Http<'_>, report: &mut Report) {
    let kept = |headers: &[&'static str]| -> Vec<&'static str> {
        headers.iter().copied().filter(|header| !is_removed(http, header)).collect()
    };
    let line = http.fields.get("early_header_mutation_extensions").line();
    let place = http.place.at(line);
    let own = kept(&DAYPASS_HEADERS);
    if !own.is_empty() {
        report.add(Code::DaypassHeaders, &place, format!("not removed: {}", own.join(", ")));
    } else if !is_removed(http, OTHER_DAYPASS_HEADER) {
        report.add(Code::DaypassHeaders, &place, "some are removed by name, the others are not");
    }
    let envoys = kept(&ENVOY_HEADERS);
    if !envoys.is_empty() {
        report.add(Code::EnvoyHeaders, &place, format!("not removed: {}", envoys.join(", ")));
    }
    let details = http.fields.get("forward_client_cert_details");
    let place = http.place.at(details.line());
    if details.is_value("ALWAYS_FORWARD_ONLY", 4) {
        report.add(Code::XfccSpoofable, &place, "forward_client_cert_details: ALWAYS_FORWARD_ONLY");
    } else if is_mutual(http)
        && (details.is_value("FORWARD_ONLY", 1) || details.is_value("APPEND_FORWARD", 2))
    {
        let name = if details.is_value("FORWARD_ONLY", 1) { "FORWARD_ONLY" } else { "APPEND_FORWARD" };
        report.add(Code::XfccForwarded, &place, format!("forward_client_cert_details: {name}"));
    }
}

/// Without a client certificate, Envoy removes the header in these two modes.
fn is_mutual(http: &Http<'_>) -> bool {
    downstream_tls(http.chain.node.get("transport_socket"))
        .is_some_and(|tls| verifies(http.model, tls.get("common_tls_context")))
}

fn certificates(http: &Http<'_>, report: &mut Report) {
    let socket = http.chain.node.get("transport_socket");
    let Some(tls) = downstream_tls(socket) else { return };
    let place = http.place.at(socket.line());
    let requires = tls.get("require_client_certificate").is_true();
    let common = tls.get("common_tls_context");
    unverified(http.model, tls, &place, report);
    if accepts_expired(http.model, common) {
        report.add(Code::ClientCertExpired, &place, "allow_expired_certificate: true");
    }
    let wants = http
        .filters
        .iter()
        .any(|filter| filter.is(EXT_AUTHZ) && filter.fields.get("include_peer_certificate").is_true());
    let has_tokens = http.filters.iter().any(|filter| filter.is(JWT));
    if !requires && verifies(http.model, common) && wants && !has_tokens {
        report.add(Code::ClientCertOptional, &place, "require_client_certificate is not true");
    }
}

/// One that need not be shown is believed too when it is.
pub fn unverified(model: &Model, tls: &Node, place: &Place, report: &mut Report) {
    let common = tls.get("common_tls_context");
    if accepts_untrusted(model, common) {
        report.add(Code::ClientCertUnverified, place, "trust_chain_verification: ACCEPT_UNTRUSTED");
    } else if tls.get("require_client_certificate").is_true() && !verifies(model, common) {
        report.add(Code::ClientCertUnverified, place, "require_client_certificate without a trusted_ca");
    }
}

/// The TLS settings of a listener's socket; of QUIC too.
pub fn downstream_tls(socket: &Node) -> Option<&Node> {
    tls(socket, "tls.v3.DownstreamTlsContext")
}

fn tokens(http: &Http<'_>, report: &mut Report) {
    for filter in http.filters.iter().filter(|filter| filter.is(JWT)) {
        let place = http.place.filter(&filter.name, filter.line);
        for (name, provider) in filter.fields.get("providers").members() {
            self::provider(name, provider, &place, report);
            let uri = provider.at(&["remote_jwks", "http_uri"]);
            let cluster = http.model.clusters.get(uri.get("cluster").text());
            let is_plain = uri.get("uri").text().starts_with("http:");
            if let Some(cluster) = cluster.filter(|cluster| is_plain && is_cleartext(cluster)) {
                let what = format!("provider {name}, cluster {}", cluster.get("name").text());
                report.add(Code::JwksCleartext, &place.at(uri.line()), what);
            }
        }
        let rules = filter.fields.get("rules").items();
        let named = filter.fields.get("requirement_map").members();
        let required =
            rules.iter().map(|rule| rule.get("requires")).chain(named.iter().map(|(_, node)| node));
        for requirement in required {
            self::requirement(requirement, &place, report);
        }
        for target in &http.routes.targets {
            if !covers(filter, target) {
                report.add(Code::JwtUncovered, &target.place, "");
            }
        }
    }
    let has_tokens = http.filters.iter().any(|filter| filter.is(JWT));
    for filter in http.filters.iter().filter(|filter| filter.is(EXT_AUTHZ) && has_tokens) {
        let lists = ["metadata_context_namespaces", "typed_metadata_context_namespaces"];
        let mut sent = lists.iter().flat_map(|list| filter.fields.get(list).items());
        if !sent.any(|name| name.text() == JWT_NAMESPACE) {
            let place = http.place.filter(&filter.name, filter.line);
            report.add(Code::MetadataNamespaces, &place, "");
        }
    }
}

fn provider(name: &str, provider: &Node, place: &Place, report: &mut Report) {
    let place = place.at(provider.line());
    let what = format!("provider {name}");
    if !provider.get("require_expiration").is_true() {
        report.add(Code::JwtNoExpiration, &place, &*what);
    }
    if provider.get("audiences").items().is_empty() {
        report.add(Code::JwtNoAudience, &place, &*what);
    }
    if provider.get("payload_in_metadata").text().is_empty() {
        report.add(Code::JwtPayload, &place, &*what);
    }
    let skew = provider.get("clock_skew_seconds");
    if skew.number().is_some_and(|skew| skew > LONG_SKEW) {
        report.add(Code::JwtClockSkew, &place.at(skew.line()), &*what);
    }
    if provider.get("forward").is_true() {
        report.add(Code::JwtForwarded, &place, what);
    }
}

fn requirement(node: &Node, place: &Place, report: &mut Report) {
    let place = place.at(node.line());
    for name in ["allow_missing", "allow_missing_or_failed"] {
        if node.get(name).is_set() {
            report.add(Code::JwtOptional, &place, name);
        }
    }
    let any = node.at(&["requires_any", "requirements"]).items();
    let is_optional =
        |part: &&Node| part.get("allow_missing").is_set() || part.get("allow_missing_or_failed").is_set();
    if any.iter().filter(|part| !is_optional(part)).count() > 1 {
        report.add(Code::JwtAny, &place, "");
    }
    for part in any.iter().chain(node.at(&["requires_all", "requirements"]).items()) {
        requirement(part, &place, report);
    }
}

/// Whether a token is looked for on this route. The first rule that matches counts; one that cannot be compared with the
/// route is given the benefit of the doubt.
fn covers(filter: &Filter, target: &Target) -> bool {
    if let Some(settings) = target.settings(filter) {
        return !settings.fields.get("disabled").is_true();
    }
    if filter.is_disabled {
        return false;
    }
    // A filter before it says which of these counts.
    if filter.fields.get("filter_state_rules").is_set() {
        return true;
    }
    let route = target.route.get("match");
    let kinds = ["prefix", "path", "path_separated_prefix"];
    let path = kinds.iter().map(|kind| route.get(kind)).find(|node| node.is_set());
    // A CONNECT has no path, and no prefix matches it, not even `/`.
    let is_connect = route.get("connect_matcher").is_set();
    for rule in filter.fields.get("rules").items() {
        let place = rule.get("match");
        let requires = rule.get("requires").is_set() || rule.get("requirement_name").is_set();
        let matches_some = ["headers", "query_parameters", "grpc", "tls_context"]
            .iter()
            .any(|name| place.get(name).is_set());
        if is_connect {
            if place.get("connect_matcher").is_set() && !matches_some {
                return requires;
            }
            continue;
        }
        let prefix = ["prefix", "path_separated_prefix"]
            .map(|kind| place.get(kind))
            .into_iter()
            .find(|node| node.is_set());
        let is_all = prefix.is_some_and(|prefix| {
            prefix.text() == "/" || path.is_some_and(|path| path.text().starts_with(prefix.text()))
        });
        let is_same = place.get("path").is_set()
            && route.get("path").is_set()
            && place.get("path").text() == route.get("path").text();
        let is_unknown = place.get("safe_regex").is_set()
            || place.get("path_match_policy").is_set()
            || place.get("connect_matcher").is_set()
            || path.is_none() && prefix.is_some();
        if (is_all || is_same) && !matches_some {
            return requires;
        }
        if is_unknown && requires {
            return true;
        }
    }
    false
}

/// For others that look at mutations: whether one of a list touches a header.
pub fn touches(mutations: &[Node], header: &str) -> bool {
    mutations
        .iter()
        .any(|mutation| mutated(mutation).eq_ignore_ascii_case(header) || removes(mutation, header))
}
