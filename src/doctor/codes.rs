//! Every kind of finding: its code, how bad it is, why it matters and what to write. Codes are stable: scripts name them.
//! `docs/doctor.md` lists the same set; a test compares the two.

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Good to know; nothing is wrong because of it alone.
    Note,
    /// Weaker than it should be.
    Warning,
    /// A request can pass unchecked, a failure lets it pass, an identity can be made up, or a grant does not end.
    Critical,
}

impl Severity {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

macro_rules! codes {
    ($($variant:ident $severity:ident $name:literal $why:literal $fix:literal;)*) => {
        /// A kind of finding.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($variant),* }

        impl Code {
            /// Those that come first are the ones to look at first.
            pub const ALL: &'static [Code] = &[$(Code::$variant),*];

            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Code::$variant => $name),* }
            }

            #[must_use]
            pub fn severity(self) -> Severity {
                match self { $(Code::$variant => Severity::$severity),* }
            }

            /// Why it matters, in one sentence.
            #[must_use]
            pub fn why(self) -> &'static str {
                match self { $(Code::$variant => $why),* }
            }

            /// What to write.
            #[must_use]
            pub fn fix(self) -> &'static str {
                match self { $(Code::$variant => $fix),* }
            }
        }
    };
}

codes! {
    // Requests that escape the check.
    NoExtAuthz Critical "no-ext-authz"
        "nothing in this configuration asks daypass, so every request passes"
        "http_filters: put envoy.filters.http.ext_authz before the router, as in envoy/envoy.yaml";
    ListenerUnchecked Critical "listener-unchecked"
        "requests of this listener reach an upstream and no filter asks daypass"
        "http_filters: put the ext_authz filter of the other listeners before the router here too";
    RouteUnchecked Critical "route-unchecked"
        "requests that match this route reach its upstream without a check"
        "remove `disabled: true` of ext_authz for this route, or answer it with direct_response or redirect";
    RouteNotEnabled Critical "route-not-enabled"
        "ext_authz is disabled in the filter chain and this route does not enable it, so its requests are not checked"
        "http_filters: remove `disabled: true` of the ext_authz filter, or enable it in this route's typed_per_filter_config";
    EnabledFraction Critical "enabled-fraction"
        "only a part of the requests is checked, the rest passes"
        "ext_authz: remove filter_enabled";
    EnabledByMetadata Critical "enabled-by-metadata"
        "only requests with certain metadata are checked, and nothing shows that all of them have it"
        "ext_authz: remove filter_enabled_metadata";
    ShadowMode Critical "shadow-mode"
        "ext_authz asks and then lets every request pass"
        "shadow_mode: false";
    AfterRouter Critical "ext-authz-after-router"
        "filters behind the router never see a request"
        "http_filters: move ext_authz before envoy.filters.http.router";
    AfterCache Critical "ext-authz-after-cache"
        "the cache answers with what another caller was allowed to see, before ext_authz asks"
        "http_filters: move ext_authz before the cache";
    AfterFiles Critical "ext-authz-after-files"
        "the file server answers before anybody is asked"
        "http_filters: move ext_authz before the file server";
    OriginalDstHeader Critical "original-dst-header"
        "a header of the request says to which address it goes, and a client can send it"
        "original_dst_lb_config: remove use_http_header, or remove the header with early_header_mutation_extensions";
    RouteCacheCleared Critical "route-cache-cleared-after-check"
        "the request can take another route than the one that was checked, also one that is not checked at all"
        "move the filter before ext_authz, or stop it from clearing the route cache";
    TcpUnchecked Critical "tcp-unchecked"
        "connections of this filter chain reach an upstream and no filter asks daypass"
        "filters: tunnel through an internal listener with ext_authz (docs/doctor.md, TCP), or put envoy.filters.network.ext_authz before the proxy";
    TcpServerFirst Critical "tcp-server-speaks-first"
        "the check waits for the client's first byte, and until then the upstream's bytes reach a client that nobody checked"
        "tcp_proxy: { upstream_connect_mode: ON_DOWNSTREAM_DATA, max_early_data_bytes: 65536 }";
    UdpUnchecked Critical "udp-unchecked"
        "datagrams reach an upstream and no filter asks daypass"
        "session_filters: put envoy.filters.udp.session.ext_authz first, or remove the listener";
    // Failures that let requests pass.
    FailureModeAllow Critical "failure-mode-allow"
        "while daypass cannot be reached or is too slow, every request passes"
        "failure_mode_allow: false";
    // Identities.
    ClientCertUnverified Critical "client-cert-unverified"
        "the client's certificate is taken from anybody, so the principal daypass sees can be made up"
        "common_tls_context: { validation_context: { trusted_ca: { filename: ca.crt } } }, and remove trust_chain_verification";
    XfccSpoofable Critical "xfcc-spoofable"
        "a client without a certificate can say in x-forwarded-client-cert who it is"
        "forward_client_cert_details: SANITIZE_SET";
    IdentityFromHeaders Critical "identity-from-headers"
        "a filter before ext_authz writes where daypass looks for what was verified, so a request can say who it is"
        "let the filter write another namespace, or take it out of metadata_context_namespaces";
    AdminExposed Critical "admin-exposed"
        "whoever reaches the admin port can read secrets, change what Envoy does and stop it"
        "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 9901 } } }";
    // The end of a grant.
    DeadlineDropped Critical "deadline-dropped"
        "Envoy drops x-envoy-upstream-stream-duration-ms of daypass' answer without a word, so streams outlive their grant"
        "decoder_header_mutation_rules: add allow_expression: { regex: \"x-daypass-[a-z0-9-]+|x-envoy-upstream-stream-duration-ms|x-envoy-max-retries|grpc-timeout\" }";
    DeadlineRemoved Critical "deadline-removed"
        "x-envoy-upstream-stream-duration-ms is changed after daypass set it, so streams outlive their grant"
        "do not touch this header behind ext_authz";
    NotHttp2 Critical "authz-cluster-not-http2"
        "gRPC needs HTTP/2: every check fails, which denies all or, with failure_mode_allow, none"
        "explicit_http_config: { http2_protocol_options: {} }";

    AmbiguousField Warning "ambiguous-field"
        "a field is there in both spellings, and which of them counts is Envoy's choice"
        "remove one of them";
    UpdateRejected Warning "update-rejected"
        "Envoy refused the last update, so what runs is not what was written last"
        "see error_state in /config_dump and repair the update";
    NothingToCheck Warning "nothing-to-check"
        "there is no listener in it, so nothing was looked at"
        "give the admin address of the running Envoy (daypass doctor http://127.0.0.1:9901) or a saved /config_dump";
    ListenersUnknown Warning "listeners-unknown"
        "further listeners come by discovery and are not in what was read"
        "give the admin address of the running Envoy, or a saved /config_dump";
    RoutesUnknown Warning "routes-unknown"
        "the routes are not in what was read, so exceptions from the check cannot be seen"
        "give the admin address of the running Envoy, or a /config_dump with its routes";
    FilterUnknown Warning "filter-unknown"
        "the filter's configuration is not in what was read"
        "give the admin address of the running Envoy, or a /config_dump with its extension configurations";
    ClusterUnknown Warning "authz-cluster-unknown"
        "the cluster that is asked is not in what was read: if Envoy has none either, every check fails"
        "name a cluster of this configuration, or give a /config_dump with its clusters";
    CheckedByRules Warning "checked-by-rules"
        "requests that no rule matches pass without a check"
        "let the CUSTOM policy match every request (`rules: [{}]`) and make exceptions in daypass' policy";
    ConditionalCheck Warning "conditional-check"
        "a matcher decides whether the filter runs, and which requests it leaves out was not worked out"
        "use ext_authz without a matcher";
    RuntimeSwitch Warning "runtime-switch"
        "whoever can set the runtime key turns the check off, and everything passes then"
        "ext_authz: remove filter_enabled, so that no runtime key has a say";
    OverrideUnmatched Warning "override-unmatched"
        "per-route settings go by the filter's name, and no filter has this one: they have no effect"
        "write the name that the filter has in http_filters";
    ClearRouteCache Warning "clear-route-cache"
        "headers that came with the answer can lead the request to another route than the one that was checked"
        "clear_route_cache: false";
    FilterCanReroute Warning "filter-can-reroute"
        "a filter behind ext_authz can change the path or the headers that were checked"
        "http_filters: move it before ext_authz";
    ClusterHeader Warning "cluster-header"
        "a header of the request names the upstream, and a client can send it"
        "route: { cluster: NAME }";
    HostRewriteHeader Warning "host-rewrite-header"
        "a header of the request becomes the host that the upstream sees, and a client can send it"
        "route: { host_rewrite_literal: NAME }";
    ExtAuthzBeforeJwt Warning "ext-authz-before-jwt"
        "daypass is asked before the token is verified, so it sees no claims and knows no caller"
        "http_filters: move jwt_authn before ext_authz (Envoy Gateway: EnvoyProxy filterOrder)";
    HttpService Warning "ext-authz-over-http"
        "daypass answers gRPC only; answers over HTTP carry no metadata, and no deadline unless it is let through"
        "grpc_service: { envoy_grpc: { cluster_name: daypass }, timeout: 0.25s }";
    OverrideService Warning "override-other-service"
        "for this route somebody else is asked than for the others"
        "check_settings: remove grpc_service or http_service";
    TimeoutLong Warning "timeout-long"
        "every request waits this long while daypass does not answer"
        "grpc_service: { timeout: 0.25s }";
    AuthzCleartext Warning "authz-cleartext"
        "whoever is between Envoy and daypass can read the checks and answer them"
        "transport_socket of the cluster: envoy.transport_sockets.tls with a client certificate, or a Unix socket";
    AuthzTlsUnverified Warning "authz-tls-unverified"
        "TLS without an authority: anybody in between can answer the checks"
        "common_tls_context: { validation_context: { trusted_ca: { filename: ca.crt } } }";
    RemoteAddress Warning "remote-address-unset"
        "Envoy takes x-forwarded-for, x-envoy-original-path and x-envoy-downstream-service-cluster as clients send them"
        "use_remote_address: true";
    InternalAddresses Warning "internal-addresses"
        "clients with these addresses may send x-envoy-* headers, such as retries and timeouts of their own"
        "remove internal_address_config: without it nobody is internal";
    JwtNoExpiration Warning "jwt-no-expiration"
        "a token without exp is good for ever"
        "providers: require_expiration: true";
    JwtNoAudience Warning "jwt-no-audience"
        "a token that was made for any other service of the issuer is taken"
        "providers: audiences: [NAME]";
    JwtClockSkew Warning "jwt-clock-skew"
        "a token is good for that much longer than it says"
        "providers: clock_skew_seconds: 60";
    JwksCleartext Warning "jwks-cleartext"
        "whoever is between Envoy and the issuer can put keys of his own in, and sign tokens with them"
        "remote_jwks: name a cluster with envoy.transport_sockets.tls and a trusted_ca";
    JwtOptional Warning "jwt-optional"
        "requests without a token, or with a bad one, come to daypass as nobody's"
        "requires: { provider_name: NAME }";
    JwtUncovered Warning "jwt-route-uncovered"
        "no rule requires a token here, so daypass sees no caller"
        "rules: - match: { prefix: / } with requires: { provider_name: NAME }";
    JwtPayload Warning "jwt-payload-missing"
        "the verified claims are not kept, so daypass cannot see who calls"
        "providers: payload_in_metadata: jwt_payload";
    MetadataNamespaces Warning "metadata-not-sent"
        "the verified claims are not sent with the check, so daypass does not know the caller"
        "metadata_context_namespaces: [envoy.filters.http.jwt_authn]";
    ClientCertExpired Warning "client-cert-expired"
        "a certificate is good after its end too"
        "validation_context: remove allow_expired_certificate";
    ClientCertOptional Warning "client-cert-optional"
        "the certificate is the only identity here, and clients need not show one"
        "require_client_certificate: true";
    XfccForwarded Warning "xfcc-forwarded"
        "a client with any certificate can say in x-forwarded-client-cert who stands behind it"
        "forward_client_cert_details: SANITIZE_SET";
    DaypassHeaders Warning "daypass-headers-kept"
        "where daypass sets no x-daypass-* header of its own, the upstream gets the client's"
        "early_header_mutation_extensions: mutations: - remove_on_match: { key_matcher: { prefix: x-daypass- } }";
    MaxRetriesDropped Warning "max-retries-dropped"
        "Envoy drops x-envoy-max-retries of daypass' answer, so a retry can begin after the grant's end"
        "decoder_header_mutation_rules: add allow_expression: { regex: \"x-daypass-[a-z0-9-]+|x-envoy-upstream-stream-duration-ms|x-envoy-max-retries|grpc-timeout\" }";
    MaxRetriesRemoved Warning "max-retries-removed"
        "x-envoy-max-retries is changed after daypass set it, so a retry can begin after the grant's end"
        "do not touch this header behind ext_authz";
    RetryOutlives Warning "retry-outlives-grant"
        "each retry begins the deadline anew, so a request of this route can run on after its grant ended"
        "route: { max_stream_duration: { max_stream_duration: 30s } }, or no retry_policy, or a watch (ext_proc) that ends it";
    PathNotNormalized Warning "path-not-normalized"
        "/a/../b and /%61 are other paths to the upstream than to whoever wrote the grant"
        "normalize_path: true";
    SlashesNotMerged Warning "slashes-not-merged"
        "//admin and /admin are one path to many upstreams and two to policies"
        "merge_slashes: true";
    EscapedSlashes Warning "escaped-slashes"
        "%2F and %5C are slashes to many upstreams and letters to policies"
        "path_with_escaped_slashes_action: REJECT_REQUEST";
    UnderscoreHeaders Warning "underscore-headers"
        "x_user and x-user are one header to many frameworks, and only one of them is removed or checked"
        "common_http_protocol_options: { headers_with_underscores_action: REJECT_REQUEST }";
    BodyBuffered Warning "body-buffered"
        "requests whose body stays open, as streams of gRPC, never come to the check and hang"
        "remove with_request_body, or set check_settings: { disable_request_body_buffering: true } on streaming routes";
    TcpHandshake Warning "tcp-connect-before-handshake"
        "the CONNECT leaves before the TLS handshake, so it carries no name of the client's certificate"
        "tcp_proxy: { upstream_connect_mode: ON_DOWNSTREAM_TLS_HANDSHAKE, max_early_data_bytes: 0 }";
    WatchFailsClosed Warning "watch-fails-closed"
        "when daypass restarts, every live stream is cut; the deadline holds without the watch"
        "ext_proc: failure_mode_allow: true";
    WatchSendsBodies Warning "watch-sends-bodies"
        "every byte goes to daypass and back, which it has no use for"
        "processing_mode: { request_body_mode: NONE, response_body_mode: NONE }";
    WatchCannotEnd Warning "watch-cannot-end-streams"
        "Envoy closes the watch as soon as nothing more can come, and then no revocation reaches the stream"
        "processing_mode: { request_header_mode: SEND, response_trailer_mode: SEND }";
    WatchCluster Warning "watch-shares-breaker"
        "each live stream holds a request of the circuit breaker; when it is full, streams run unwatched or checks fail"
        "a cluster of its own with circuit_breakers: { thresholds: [{ max_requests: 100000 }] }";
    WatchNamespaces Warning "watch-without-metadata"
        "the watch is not told what was decided, so it cannot know which grant to watch"
        "metadata_options: { forwarding_namespaces: { untyped: [envoy.filters.http.ext_authz] } }";
    WatchBeforeCheck Warning "watch-before-ext-authz"
        "the watch begins before there is a decision to watch"
        "http_filters: move ext_proc behind ext_authz";

    ListenerOutbound Note "listener-outbound"
        "traffic that leaves the workload is not checked here; the receiving side is the place for that"
        "nothing";
    ListenerOperational Note "listener-operational"
        "health and metrics are served without a check"
        "keep its address out of reach of clients";
    TcpNoExtAuthz Note "tcp-without-check"
        "connections are proxied and nothing in this configuration asks daypass"
        "as for no-ext-authz";
    ConditionalFilter Note "conditional-filter"
        "a matcher chooses what the filter does, which was not worked out"
        "nothing, if it has nothing to do with access";
    CheckedByAllRules Note "checked-by-all-rules"
        "the check runs where a shadow rule matches; one matches everything, so all requests are checked"
        "nothing";
    StatusOnError Note "status-on-error"
        "when daypass cannot be asked the client gets 403, as if there were no grant"
        "status_on_error: { code: ServiceUnavailable }";
    CheckRetries Note "check-retries"
        "Envoy 1.40 makes few of its retries without retry_back_off"
        "retry_policy: { retry_back_off: { base_interval: 0.005s, max_interval: 0.02s } }";
    TimeoutDefault Note "timeout-default"
        "the default is 200 ms, which is close to the 150 ms that daypass takes at most"
        "grpc_service: { timeout: 0.25s }";
    TimeoutShort Note "timeout-short"
        "Envoy gives up before daypass answers with a reason"
        "grpc_service: { timeout: 0.25s }";
    GoogleGrpc Note "google-grpc"
        "this client drops idle connections, and the next check waits for a new one"
        "grpc_service: { envoy_grpc: { cluster_name: daypass } }";
    BreakerDefault Note "breaker-default"
        "at most 1024 checks are under way at once, for all workers; the next ones are denied"
        "circuit_breakers: { thresholds: [{ max_requests: 4096, max_pending_requests: 1024 }] }";
    PanicThreshold Note "panic-threshold"
        "when no daypass is healthy Envoy asks all the same, and requests wait for the timeout instead of 503 at once"
        "common_lb_config: { healthy_panic_threshold: { value: 0 } }";
    TrustedHops Note "trusted-hops"
        "the client's address is what that many proxies before this one said; with fewer, a client chooses it"
        "xff_num_trusted_hops: the number of proxies before this Envoy that append to x-forwarded-for";
    JwtAny Note "jwt-any"
        "a token of any of several providers is enough; the same `sub` may be another person there"
        "nothing, if their subjects cannot be equal";
    JwtForwarded Note "jwt-forwarded"
        "the upstream gets the caller's token and can use it elsewhere"
        "providers: forward: false";
    EnvoyHeaders Note "envoy-headers-kept"
        "use_remote_address removes what clients send of these; removing them by name holds without it too"
        "early_header_mutation_extensions: mutations: - remove: x-envoy-upstream-stream-duration-ms - remove: x-envoy-max-retries - remove_on_match: { key_matcher: { prefix: x-envoy-auth- } }";
    Hedging Note "hedging"
        "more than one attempt runs at once, each with a deadline of its own"
        "remove hedge_policy";
    EscapedForwarded Note "escaped-slashes-unescaped"
        "%2F and %5C become slashes before daypass looks, so a path with them is another one than the client wrote"
        "path_with_escaped_slashes_action: REJECT_REQUEST";
    NoStreamCap Note "no-stream-cap"
        "nothing but daypass' answer ends a stream"
        "common_http_protocol_options: { max_stream_duration: 28800s }";
    ClusterStreamCap Note "cluster-stream-cap"
        "daypass' deadline replaces this cap, also with a longer time"
        "common_http_protocol_options of the listener: { max_stream_duration: 28800s }";
    Http10 Note "http-1-0"
        "requests of HTTP/1.0 are served; without a host they get the default one, and grants for hosts go by that"
        "http_protocol_options: remove accept_http_10";
    CaseInsensitiveRoute Note "case-insensitive-route"
        "the route ignores case and grants do not: a path in another case comes here and is covered by nothing"
        "match: remove case_sensitive: false";
    BodyPartial Note "body-partial"
        "policies see the beginning of a long body only; daypass denies those that look at it"
        "with_request_body: { allow_partial_message: false }";
    ValidateMutations Note "validate-mutations"
        "a header that HTTP cannot carry leads to undefined errors of the upstream instead of a 500"
        "validate_mutations: true";
    SecretsSent Note "secrets-sent"
        "tokens and cookies go to daypass with every check, which has no use for them after jwt_authn"
        "disallowed_headers: { patterns: [{ exact: authorization, ignore_case: true }, { exact: cookie, ignore_case: true }] }";
    AnyHost Note "any-host"
        "requests for any host get this virtual host's routes; grants that name no host cover them all"
        "domains: [NAME]";
    NoGuard Note "no-guard"
        "nothing behind ext_authz notices a request that was not checked"
        "http_filters: an RBAC filter behind ext_authz that requires metadata of envoy.filters.http.ext_authz";
    TcpNoDeadline Note "tcp-no-deadline"
        "a connection is checked when it begins and does not end with its grant"
        "tunnel through an internal listener with ext_authz (docs/doctor.md, TCP)";
}
