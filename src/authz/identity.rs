//! Who calls: principals out of what Envoy verified, in the order of the configured sources.
//!
//! By default only from places a client cannot write to: claims that `jwt_authn` checked, and the identity of the
//! peer's certificate. Having no identity is not an error. Having two different ones of a kind is: somebody is mixing
//! callers, and every choice between them would be a guess.

use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::service::auth::v3::AttributeContext;
use envoy_types::pb::google::protobuf::value::Kind as ValueKind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use thiserror::Error;

use super::headers::Headers;
use super::request::Parsed;
use crate::principal::{Caller, Kind, Principal, PrincipalError};

/// More principals than any directory gives one person; a bound on the work one token can cause.
pub const MAX_PRINCIPALS: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentitySource {
    /// Claims that Envoy's `jwt_authn` verified and left in `metadata_context` (`payload_in_metadata`).
    Jwt { filter: String, payload: String, user_claim: String, groups_claim: String },
    /// `source.principal`: what the peer's certificate says, where the listener validates it.
    Peer,
    /// `x-forwarded-client-cert`, of which the last `trusted_hops` elements were written by proxies of ours.
    Xfcc { trusted_hops: usize },
    /// A header of the CONNECT by which one listener of an Envoy hands a TCP connection to another inside the same process:
    /// the URI of the certificate that the client showed to the first. Read only on connections from within Envoy.
    Tunnel { header: String },
    /// A header. Unsafe unless Envoy removes it from what clients send.
    Header { name: String, kind: Kind },
}

impl IdentitySource {
    /// What is trusted when nothing is configured.
    #[must_use]
    pub fn defaults() -> Vec<Self> {
        vec![
            Self::Jwt {
                filter: "envoy.filters.http.jwt_authn".to_owned(),
                payload: "jwt_payload".to_owned(),
                user_claim: "sub".to_owned(),
                groups_claim: "groups".to_owned(),
            },
            Self::Peer,
        ]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum IdentityError {
    #[error("the request names two different {}s", .0.as_str())]
    Conflict(Kind),
    #[error("the request names a caller that cannot be one: {0}")]
    BadPrincipal(#[from] PrincipalError),
    #[error("the forwarded certificate cannot be read")]
    Unreadable,
    #[error("the request names more than {MAX_PRINCIPALS} principals")]
    TooMany,
}

/// # Errors
/// Two values for one identity, or a value that is no name.
pub fn identify(parsed: &Parsed<'_>, sources: &[IdentitySource]) -> Result<Caller, IdentityError> {
    let mut found = Found::default();
    for source in sources {
        match source {
            IdentitySource::Jwt { filter, payload, user_claim, groups_claim } => {
                if let Some(claims) =
                    parsed.attributes.and_then(|attributes| jwt_claims(attributes, filter, payload))
                {
                    found.add_texts(Kind::User, claims.fields.get(user_claim))?;
                    found.add_texts(Kind::Group, claims.fields.get(groups_claim))?;
                }
            }
            IdentitySource::Peer => {
                if let Some(peer) = parsed.attributes.and_then(|attributes| attributes.source.as_ref())
                    && !peer.principal.is_empty()
                {
                    found.add(Kind::Workload, &peer.principal)?;
                }
            }
            IdentitySource::Xfcc { trusted_hops } => {
                for uri in forwarded_uris(&parsed.headers, *trusted_hops)? {
                    found.add(Kind::Workload, &uri)?;
                }
            }
            IdentitySource::Tunnel { header } => {
                let uri = parsed
                    .attributes
                    .filter(|found| is_tunnel(found))
                    .and_then(|_| parsed.headers.get(header));
                match uri {
                    None | Some("" | NOTHING) => {}
                    // Several URIs in one certificate are joined by commas: two callers.
                    Some(uris) if uris.contains(',') => return Err(IdentityError::Conflict(Kind::Workload)),
                    Some(uri) => found.add(Kind::Workload, uri)?,
                }
            }
            IdentitySource::Header { name, kind } => {
                // Several headers of one name arrive joined by commas, so a comma is never part of a name here.
                let values = parsed.headers.get(name).unwrap_or_default().split(',');
                for value in values.map(str::trim).filter(|value| !value.is_empty()) {
                    found.add(*kind, value)?;
                }
            }
        }
    }
    Ok(Caller::new(found.principals))
}

#[derive(Default)]
struct Found {
    principals: Vec<Principal>,
    user: Option<Principal>,
    workload: Option<Principal>,
}

impl Found {
    fn add(&mut self, kind: Kind, name: &str) -> Result<(), IdentityError> {
        let principal = Principal::new(kind, name)?;
        if self.principals.contains(&principal) {
            return Ok(());
        }
        if self.principals.len() == MAX_PRINCIPALS {
            return Err(IdentityError::TooMany);
        }
        let only = match kind {
            Kind::User => Some(&mut self.user),
            Kind::Workload => Some(&mut self.workload),
            Kind::Group => None,
        };
        if let Some(only) = only {
            match only {
                Some(_) => return Err(IdentityError::Conflict(kind)),
                None => *only = Some(principal.clone()),
            }
        }
        self.principals.push(principal);
        Ok(())
    }

    /// A string, or a list of strings. Claims of other types name nobody.
    fn add_texts(&mut self, kind: Kind, value: Option<&Value>) -> Result<(), IdentityError> {
        match value.and_then(|value| value.kind.as_ref()) {
            Some(ValueKind::StringValue(text)) if !text.is_empty() => self.add(kind, text),
            Some(ValueKind::ListValue(list)) => {
                list.values.iter().try_for_each(|item| self.add_texts(kind, Some(item)))
            }
            _ => Ok(()),
        }
    }
}

/// What Envoy writes for a value that is not there.
const NOTHING: &str = "-";

/// What the configuration of the inner listener says of itself (`context_extensions`), which no client can.
const TUNNEL_MARK: (&str, &str) = ("daypass_tunnel", "true");

/// Whether the peer is a listener of the same Envoy, and this one is for tunnels. The mark keeps the header of a client out
/// where HTTP is handed on inside Envoy, too.
fn is_tunnel(attributes: &AttributeContext) -> bool {
    let address = attributes.source.as_ref().and_then(|source| source.address.as_ref()?.address.as_ref());
    let (name, value) = TUNNEL_MARK;
    matches!(address, Some(AddressKind::EnvoyInternalAddress(_)))
        && attributes.context_extensions.get(name).is_some_and(|found| found == value)
}

fn jwt_claims<'a>(attributes: &'a AttributeContext, filter: &str, payload: &str) -> Option<&'a Struct> {
    let claims = attributes.metadata_context.as_ref()?.filter_metadata.get(filter)?.fields.get(payload)?;
    match claims.kind.as_ref()? {
        ValueKind::StructValue(claims) => Some(claims),
        _ => None,
    }
}

/// `URI=` of the element that the outermost trusted proxy wrote: the `hops`-th from the right. Elements further left
/// came with the request, and anybody could have written them, so nothing left of the wanted one is even read: a
/// quote that a client left open must not swallow what a proxy appended.
fn forwarded_uris(headers: &Headers<'_>, hops: usize) -> Result<Vec<String>, IdentityError> {
    let Some(value) = headers.get("x-forwarded-client-cert") else { return Ok(Vec::new()) };
    let Some(element) = hops.checked_sub(1).and_then(|back| elements_from_right(value).nth(back)) else {
        return Ok(Vec::new());
    };
    let pairs = split_outside_quotes(element, ';').ok_or(IdentityError::Unreadable)?;
    let uri = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("URI").then(|| unquote(value.trim()))
    };
    Ok(pairs.into_iter().filter_map(uri).filter(|uri| !uri.is_empty()).collect())
}

/// The elements of a list, the last first. Quotes are paired from the right.
fn elements_from_right(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let current = rest?;
        let comma = places_outside_quotes(current, ',', Direction::Left).next();
        let (left, element) = comma.map_or((None, current), |at| (Some(&current[..at]), &current[at + 1..]));
        rest = left;
        Some(element)
    })
}

/// `None` if a quote is left open.
fn split_outside_quotes(text: &str, separator: char) -> Option<Vec<&str>> {
    let quotes = text.char_indices().filter(|(at, c)| *c == '"' && !is_escaped(text, *at)).count();
    if !quotes.is_multiple_of(2) {
        return None;
    }
    let mut parts = Vec::new();
    let mut start = 0;
    for at in places_outside_quotes(text, separator, Direction::Right) {
        parts.push(&text[start..at]);
        start = at + 1;
    }
    parts.push(&text[start..]);
    Some(parts)
}

#[derive(Clone, Copy)]
enum Direction {
    Left,
    Right,
}

/// Where an ASCII separator stands outside quotes, which are paired in the direction of the walk.
fn places_outside_quotes(text: &str, separator: char, direction: Direction) -> impl Iterator<Item = usize> {
    let places: Vec<(usize, char)> = match direction {
        Direction::Left => text.char_indices().rev().collect(),
        Direction::Right => text.char_indices().collect(),
    };
    let mut in_quotes = false;
    places.into_iter().filter_map(move |(at, c)| {
        if c == '"' && !is_escaped(text, at) {
            in_quotes = !in_quotes;
        }
        (c == separator && !in_quotes).then_some(at)
    })
}

fn is_escaped(text: &str, at: usize) -> bool {
    let backslashes = text.as_bytes()[..at].iter().rev().take_while(|byte| **byte == b'\\').count();
    !backslashes.is_multiple_of(2)
}

fn unquote(text: &str) -> String {
    match text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) => inner.replace("\\\"", "\"").replace("\\\\", "\\"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use envoy_types::pb::envoy::config::core::v3::Metadata;
    use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
    use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
    use envoy_types::pb::google::protobuf::ListValue;

    use super::*;
    use crate::authz::request::{BodyParsing, parse};

    fn text(value: &str) -> Value {
        Value { kind: Some(ValueKind::StringValue(value.into())) }
    }

    fn request(sub: Option<&str>, groups: &[&str], peer: &str, headers: &[(&str, &str)]) -> CheckRequest {
        let groups = Value {
            kind: Some(ValueKind::ListValue(ListValue { values: groups.iter().map(|g| text(g)).collect() })),
        };
        let mut claims: HashMap<String, Value> = HashMap::from([("groups".into(), groups)]);
        claims.extend(sub.map(|sub| ("sub".to_owned(), text(sub))));
        let payload = Value { kind: Some(ValueKind::StructValue(Struct { fields: claims })) };
        let filter = Struct { fields: HashMap::from([("jwt_payload".into(), payload)]) };
        CheckRequest {
            attributes: Some(AttributeContext {
                source: Some(Peer { principal: peer.into(), ..Peer::default() }),
                metadata_context: Some(Metadata {
                    filter_metadata: HashMap::from([("envoy.filters.http.jwt_authn".into(), filter)]),
                    ..Metadata::default()
                }),
                request: Some(Request {
                    http: Some(HttpRequest {
                        headers: headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
                        ..HttpRequest::default()
                    }),
                    ..Request::default()
                }),
                ..AttributeContext::default()
            }),
        }
    }

    fn names(request: &CheckRequest, sources: &[IdentitySource]) -> Result<Vec<String>, IdentityError> {
        let parsed = parse(request, BodyParsing::On).unwrap();
        identify(&parsed, sources).map(|caller| caller.principals().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn claims_then_certificate() {
        let defaults = IdentitySource::defaults();
        let both = request(Some("alice@corp"), &["sre", "dev", "sre"], "spiffe://td/web", &[]);
        assert_eq!(
            names(&both, &defaults).unwrap(),
            ["user:alice@corp", "group:sre", "group:dev", "workload:spiffe://td/web"]
        );
        assert_eq!(names(&request(None, &[], "", &[]), &defaults).unwrap(), Vec::<String>::new());
        assert_eq!(names(&CheckRequest { attributes: None }, &defaults).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn two_values_for_one_identity_are_a_conflict() {
        let header = IdentitySource::Header { name: "x-user".into(), kind: Kind::User };
        let sources = [IdentitySource::defaults(), vec![header.clone()]].concat();
        let with = |user: &str| request(Some("alice"), &[], "", &[("x-user", user)]);
        assert_eq!(names(&with("bob"), &sources), Err(IdentityError::Conflict(Kind::User)));
        assert_eq!(names(&with("alice"), &sources).unwrap(), ["user:alice"]);
        assert_eq!(
            names(&with("alice,bob"), std::slice::from_ref(&header)),
            Err(IdentityError::Conflict(Kind::User))
        );
        assert!(matches!(names(&with("a\u{7}"), &[header]), Err(IdentityError::BadPrincipal(_))));
    }

    #[test]
    fn forwarded_certificates_count_from_the_right() {
        let forged = r#"By=spiffe://td/gw;URI=spiffe://td/admin,By=spiffe://td/gw;Hash=ab;Subject="CN=\"x,URI=spiffe://td/evil\";OU=y";URI=spiffe://td/web"#;
        let request = request(None, &[], "", &[("x-forwarded-client-cert", forged)]);
        let hops = |trusted_hops| names(&request, &[IdentitySource::Xfcc { trusted_hops }]).unwrap();
        assert_eq!(hops(1), ["workload:spiffe://td/web"]);
        assert_eq!(hops(2), ["workload:spiffe://td/admin"]);
        assert_eq!(hops(3), Vec::<String>::new());
        assert_eq!(hops(0), Vec::<String>::new());
    }

    #[test]
    fn a_tunnel_names_its_caller_only_from_within_envoy() {
        use envoy_types::pb::envoy::config::core::v3::{Address, EnvoyInternalAddress};
        let tunnel = [IdentitySource::Tunnel { header: "x-peer".into() }];
        let within = |value: &str| {
            let mut request = request(None, &[], "", &[("x-peer", value)]);
            let source = request.attributes.as_mut().unwrap().source.get_or_insert_default();
            let inside = AddressKind::EnvoyInternalAddress(EnvoyInternalAddress::default());
            source.address = Some(Address { address: Some(inside) });
            let unmarked = names(&request, &tunnel);
            assert_eq!(
                unmarked,
                Ok(vec![]),
                "HTTP that is handed on inside Envoy has the headers of its client"
            );
            let mark = ("daypass_tunnel".to_owned(), "true".to_owned());
            request.attributes.as_mut().unwrap().context_extensions.extend([mark]);
            names(&request, &tunnel)
        };
        assert_eq!(within("spiffe://td/web"), Ok(vec!["workload:spiffe://td/web".to_owned()]));
        assert_eq!(within("-"), Ok(vec![]), "Envoy's word for nothing");
        assert_eq!(within(""), Ok(vec![]));
        assert_eq!(within("spiffe://td/a,spiffe://td/b"), Err(IdentityError::Conflict(Kind::Workload)));
        let outside = request(None, &[], "", &[("x-peer", "spiffe://td/web")]);
        assert_eq!(names(&outside, &tunnel), Ok(vec![]), "anybody may send a header");
    }

    #[test]
    fn an_open_quote_of_a_client_swallows_nothing_of_a_proxy() {
        let appended = r#"By=spiffe://td/gw;Hash=00;Subject="CN=x";URI=spiffe://td/web"#;
        for sent in [
            r#"URI=spiffe://td/admin;Subject=""#,
            r#"URI=spiffe://td/admin;Subject="\"#,
            r#"URI=spiffe://td/admin;Subject="\""#,
            r#"URI=spiffe://td/admin;Subject="",""#,
        ] {
            let value = format!("{sent},{appended}");
            let request = request(None, &[], "", &[("x-forwarded-client-cert", &value)]);
            let named = names(&request, &[IdentitySource::Xfcc { trusted_hops: 1 }]);
            assert_eq!(named.as_deref(), Ok(&["workload:spiffe://td/web".to_owned()][..]), "{value}");
        }
        let open = request(None, &[], "", &[("x-forwarded-client-cert", r#"URI=spiffe://td/a;Subject=""#)]);
        assert_eq!(names(&open, &[IdentitySource::Xfcc { trusted_hops: 1 }]), Err(IdentityError::Unreadable));
    }
}
