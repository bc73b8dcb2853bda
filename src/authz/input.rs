//! The `input` document: OPA-Envoy's, built straight from the protobuf message.
//!
//! Field names are the JSON names of the protos, unpopulated fields are absent, map keys are untouched. It says
//! "protojson" and differs from it where OPA-Envoy does: a timestamp is `{seconds, nanos}`, an enum is a number, an
//! `Any` is `{typeUrl, value}`. What no policy reads is not built.

use data_encoding::BASE64;
use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::envoy_internal_address::AddressNameSpecifier;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, HeaderMap, Metadata};
use envoy_types::pb::envoy::service::auth::v3::AttributeContext;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Timestamp, Value};

use super::body::{self, Body};
use super::request::Parsed;
use crate::policy::{Document, InputReads, Key, Members};

/// Which parts of the document the policy can read. Computed once per policy.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "one independent switch per part of the document")]
pub struct Wanted {
    attributes: bool,
    source: bool,
    destination: bool,
    time: bool,
    http: bool,
    headers: bool,
    header_map: bool,
    http_body: bool,
    context_extensions: bool,
    metadata: bool,
    route_metadata: bool,
    tls: bool,
    parsed_path: bool,
    parsed_query: bool,
    parsed_body: bool,
    source_principal: bool,
    version: bool,
    pub jit: bool,
}

impl Wanted {
    /// The whole document, for people.
    #[must_use]
    pub fn everything() -> Self {
        Self::by(&InputReads::everything())
    }

    #[must_use]
    pub fn by(reads: &InputReads) -> Self {
        let attribute = |name| reads.touches(&["attributes", name]);
        let http = |name| reads.touches(&["attributes", "request", "http", name]);
        Self {
            attributes: reads.touches(&["attributes"]),
            source: attribute("source"),
            destination: attribute("destination"),
            time: reads.touches(&["attributes", "request", "time"]),
            http: reads.touches(&["attributes", "request", "http"]),
            headers: http("headers"),
            header_map: http("headerMap"),
            http_body: http("body") || http("rawBody"),
            context_extensions: attribute("contextExtensions"),
            metadata: attribute("metadataContext"),
            route_metadata: attribute("routeMetadataContext"),
            tls: attribute("tlsSession"),
            parsed_path: reads.touches(&["parsed_path"]),
            parsed_query: reads.touches(&["parsed_query"]),
            parsed_body: reads.touches(&["parsed_body"]) || reads.touches(&["truncated_body"]),
            source_principal: reads.touches(&["source_principal"]),
            version: reads.touches(&["version"]),
            jit: reads.touches(&["jit"]),
        }
    }
}

/// `jit` is a function because building it is only worth its cost if somebody reads it.
pub fn build(parsed: Parsed<'_>, wanted: Wanted, jit: impl FnOnce() -> Document) -> Document {
    let mut input = Members::new();
    if let Some(attributes) = parsed.attributes.filter(|_| wanted.attributes) {
        input.set(Key::Attributes, attribute_context(attributes, &parsed, wanted));
    }
    if wanted.jit {
        input.set(Key::Jit, jit());
    }
    if wanted.parsed_path {
        input.set(
            Key::ParsedPath,
            Document::list(parsed.path.iter().map(|segment| Document::string(segment))),
        );
    }
    if wanted.parsed_query {
        input.set(Key::ParsedQuery, body::values(&parsed.query));
    }
    if wanted.source_principal
        && let Some(source) = parsed.attributes.and_then(|attributes| attributes.source.as_ref())
    {
        input.set_text(Key::SourcePrincipal, &source.principal);
    }
    if wanted.version {
        input.set(Key::Version, Document::version());
    }
    if let Some(body) = parsed.body.filter(|_| wanted.parsed_body) {
        let (document, is_truncated) = match body {
            Body::None => (Document::NULL, false),
            Body::Parsed(document) => (document, false),
            Body::Truncated => (Document::NULL, true),
        };
        input.set(Key::ParsedBody, document);
        input.set(Key::TruncatedBody, Document::bool(is_truncated));
    }
    input.build()
}

fn attribute_context(attributes: &AttributeContext, parsed: &Parsed<'_>, wanted: Wanted) -> Document {
    let AttributeContext {
        source,
        destination,
        request,
        context_extensions,
        metadata_context,
        route_metadata_context,
        tls_session,
    } = attributes;
    let mut members = Members::new();
    if let Some(source) = source.as_ref().filter(|_| wanted.source) {
        members.set(Key::Source, peer(source));
    }
    if let Some(destination) = destination.as_ref().filter(|_| wanted.destination) {
        members.set(Key::Destination, peer(destination));
    }
    if let Some(request) = request.as_ref().filter(|_| wanted.time || wanted.http) {
        members.set(Key::Request, request_part(request, parsed, wanted));
    }
    if wanted.context_extensions && !context_extensions.is_empty() {
        members.set(Key::ContextExtensions, texts(context_extensions.iter()));
    }
    if let Some(found) = metadata_context.as_ref().filter(|_| wanted.metadata) {
        members.set(Key::MetadataContext, metadata(found));
    }
    if let Some(found) = route_metadata_context.as_ref().filter(|_| wanted.route_metadata) {
        members.set(Key::RouteMetadataContext, metadata(found));
    }
    if let Some(session) = tls_session.as_ref().filter(|_| wanted.tls) {
        let mut tls = Members::new();
        tls.set_text(Key::Sni, &session.sni);
        members.set(Key::TlsSession, tls.build());
    }
    members.build()
}

fn peer(peer: &Peer) -> Document {
    let Peer { address, service, labels, principal, certificate } = peer;
    let mut members = Members::new();
    if let Some(found) = address {
        members.set(Key::Address, self::address(found));
    }
    members.set_text(Key::Service, service);
    if !labels.is_empty() {
        members.set(Key::Labels, texts(labels.iter()));
    }
    members.set_text(Key::Principal, principal);
    members.set_text(Key::Certificate, certificate);
    members.build()
}

fn address(address: &Address) -> Document {
    let mut members = Members::new();
    match &address.address {
        Some(AddressKind::SocketAddress(found)) => {
            let mut socket = Members::new();
            if found.protocol != 0 {
                socket.set(Key::Protocol, Document::integer(found.protocol.into()));
            }
            socket.set_text(Key::Address, &found.address);
            socket.set_text(Key::ResolverName, &found.resolver_name);
            if found.ipv4_compat {
                socket.set(Key::Ipv4Compat, Document::bool(true));
            }
            socket.set_text(Key::NetworkNamespaceFilepath, &found.network_namespace_filepath);
            match &found.port_specifier {
                Some(PortSpecifier::PortValue(port)) => {
                    socket.set(Key::PortValue, Document::unsigned((*port).into()));
                }
                Some(PortSpecifier::NamedPort(name)) => socket.set(Key::NamedPort, Document::string(name)),
                None => {}
            }
            members.set(Key::SocketAddress, socket.build());
        }
        Some(AddressKind::Pipe(found)) => {
            let mut pipe = Members::new();
            pipe.set_text(Key::Path, &found.path);
            if found.mode != 0 {
                pipe.set(Key::Mode, Document::unsigned(found.mode.into()));
            }
            members.set(Key::Pipe, pipe.build());
        }
        Some(AddressKind::EnvoyInternalAddress(found)) => {
            let mut internal = Members::new();
            internal.set_text(Key::EndpointId, &found.endpoint_id);
            if let Some(AddressNameSpecifier::ServerListenerName(name)) = &found.address_name_specifier {
                internal.set(Key::ServerListenerName, Document::string(name));
            }
            members.set(Key::EnvoyInternalAddress, internal.build());
        }
        None => {}
    }
    members.build()
}

fn request_part(request: &Request, parsed: &Parsed<'_>, wanted: Wanted) -> Document {
    let mut members = Members::new();
    if let Some(Timestamp { seconds, nanos }) = request.time.filter(|_| wanted.time) {
        let mut time = Members::new();
        if seconds != 0 {
            time.set(Key::Seconds, Document::integer(seconds));
        }
        if nanos != 0 {
            time.set(Key::Nanos, Document::integer(nanos.into()));
        }
        members.set(Key::Time, time.build());
    }
    if let Some(http) = request.http.as_ref().filter(|_| wanted.http) {
        members.set(Key::Http, http_part(http, parsed, wanted));
    }
    members.build()
}

fn http_part(http: &HttpRequest, parsed: &Parsed<'_>, wanted: Wanted) -> Document {
    let HttpRequest {
        id,
        method,
        // Through `parsed.headers`, so that both ways of sending headers give one document.
        headers: _,
        header_map: listed,
        path,
        host,
        scheme,
        query,
        fragment,
        size,
        protocol,
        body,
        raw_body,
    } = http;
    let mut members = Members::new();
    members.set_text(Key::Id, id);
    members.set_text(Key::Method, method);
    members.set_text(Key::Path, path);
    members.set_text(Key::Host, host);
    members.set_text(Key::Scheme, scheme);
    members.set_text(Key::Query, query);
    members.set_text(Key::Fragment, fragment);
    members.set_text(Key::Protocol, protocol);
    if *size != 0 {
        members.set(Key::Size, Document::integer(*size));
    }
    if wanted.headers && !parsed.headers.is_empty() {
        members.set(Key::Headers, texts(parsed.headers.iter()));
    }
    if let Some(listed) = listed.as_ref().filter(|_| wanted.header_map) {
        members.set(Key::HeaderMap, header_map(listed));
    }
    if wanted.http_body {
        members.set_text(Key::Body, body);
        if !raw_body.is_empty() {
            members.set(Key::RawBody, base64(raw_body));
        }
    }
    members.build()
}

fn header_map(listed: &HeaderMap) -> Document {
    let mut members = Members::new();
    if !listed.headers.is_empty() {
        let header = |header: &envoy_types::pb::envoy::config::core::v3::HeaderValue| {
            let mut members = Members::new();
            members.set_text(Key::Key, &header.key);
            members.set_text(Key::Value, &header.value);
            if !header.raw_value.is_empty() {
                members.set(Key::RawValue, base64(&header.raw_value));
            }
            members.build()
        };
        members.set(Key::Headers, Document::list(listed.headers.iter().map(header)));
    }
    members.build()
}

fn metadata(metadata: &Metadata) -> Document {
    let mut members = Members::new();
    if !metadata.filter_metadata.is_empty() {
        let mut filters = Members::new();
        for (name, found) in &metadata.filter_metadata {
            filters.set_named(name, structure(found));
        }
        members.set(Key::FilterMetadata, filters.build());
    }
    if !metadata.typed_filter_metadata.is_empty() {
        let mut filters = Members::new();
        for (name, any) in &metadata.typed_filter_metadata {
            let mut members = Members::new();
            members.set_text(Key::TypeUrl, &any.type_url);
            if !any.value.is_empty() {
                members.set(Key::Value, base64(&any.value));
            }
            filters.set_named(name, members.build());
        }
        members.set(Key::TypedFilterMetadata, filters.build());
    }
    members.build()
}

fn structure(found: &Struct) -> Document {
    let mut members = Members::new();
    for (name, value) in &found.fields {
        members.set_named(name, json_value(value));
    }
    members.build()
}

fn json_value(value: &Value) -> Document {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Document::NULL,
        Some(Kind::BoolValue(value)) => Document::bool(*value),
        Some(Kind::NumberValue(value)) => Document::double(*value),
        Some(Kind::StringValue(text)) => Document::string(text),
        Some(Kind::ListValue(list)) => Document::list(list.values.iter().map(json_value)),
        Some(Kind::StructValue(found)) => structure(found),
    }
}

fn texts<N: AsRef<str>, V: AsRef<str>>(pairs: impl Iterator<Item = (N, V)>) -> Document {
    let mut members = Members::new();
    for (name, value) in pairs {
        members.set_named(name.as_ref(), Document::string(value.as_ref()));
    }
    members.build()
}

fn base64(bytes: &[u8]) -> Document {
    Document::string(&BASE64.encode(bytes))
}
