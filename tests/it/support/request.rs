//! CheckRequests as Envoy sends them, and what to look for in the answers.

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};

/// A request of a caller whose JWT names `user`.
pub fn request(user: &str, method: &str, host: &str, path: &str) -> CheckRequest {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let claims = Struct { fields: [("sub".to_owned(), text(user))].into() };
    let payload = Value { kind: Some(Kind::StructValue(claims)) };
    let filter = Struct { fields: [("jwt_payload".to_owned(), payload)].into() };
    let headers = [
        (":method", method),
        (":authority", host),
        (":path", path),
        ("x-request-id", "r-1"),
        ("authorization", "Bearer s3cret"),
    ];
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(Peer {
                address: Some(Address {
                    address: Some(AddressKind::SocketAddress(SocketAddress {
                        address: "10.1.2.3".to_owned(),
                        port_specifier: Some(PortSpecifier::PortValue(5000)),
                        ..SocketAddress::default()
                    })),
                }),
                ..Peer::default()
            }),
            request: Some(Request {
                http: Some(HttpRequest {
                    method: method.to_owned(),
                    host: host.to_owned(),
                    path: path.to_owned(),
                    headers: headers
                        .iter()
                        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                        .collect(),
                    ..HttpRequest::default()
                }),
                ..Request::default()
            }),
            metadata_context: Some(Metadata {
                filter_metadata: [("envoy.filters.http.jwt_authn".to_owned(), filter)].into(),
                ..Metadata::default()
            }),
            ..AttributeContext::default()
        }),
    }
}

/// Alice asks for what her grants in these tests cover.
pub fn alice() -> CheckRequest {
    request("alice", "GET", "orders.svc", "/db/rows")
}

/// The value of a grant that covers [`alice`].
pub const ALICES_GRANT: &str = r#"{"v":1,"subject":"user:alice","permissions":[{"hosts":["orders.svc"],"methods":["GET"],"paths":["/db/**"]}]}"#;

pub fn is_allow(response: &CheckResponse) -> bool {
    response.status.as_ref().expect("a response without a status is an allow to Envoy").code == 0
}

pub fn reason(response: &CheckResponse) -> String {
    metadata(response, "reason")
}

pub fn metadata(response: &CheckResponse, name: &str) -> String {
    match response
        .dynamic_metadata
        .as_ref()
        .and_then(|found| found.fields.get(name))
        .and_then(|v| v.kind.as_ref())
    {
        Some(Kind::StringValue(text)) => text.clone(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

/// The HTTP status of a denial.
pub fn denied_status(response: &CheckResponse) -> i32 {
    match &response.http_response {
        Some(HttpResponse::DeniedResponse(denied)) => denied.status.as_ref().map_or(0, |status| status.code),
        _ => 0,
    }
}

pub fn denied_body(response: &CheckResponse) -> String {
    match &response.http_response {
        Some(HttpResponse::DeniedResponse(denied)) => denied.body.clone(),
        _ => String::new(),
    }
}

/// A header that the upstream gets.
pub fn upstream_header(response: &CheckResponse, name: &str) -> Option<String> {
    let Some(HttpResponse::OkResponse(ok)) = &response.http_response else { return None };
    ok.headers
        .iter()
        .filter_map(|option| option.header.as_ref())
        .find(|h| h.key == name)
        .map(|h| h.value.clone())
}
