//! What is known of a stream when its watch comes: the request itself, if this process has just decided it; else what ext_authz
//! left in Envoy's metadata, which no client can write.

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use envoy_types::pb::envoy::service::ext_proc::v3::HttpHeaders;
use envoy_types::pb::google::protobuf::Struct;
use envoy_types::pb::google::protobuf::value::Kind as ValueKind;
use prost::Message;
use uuid::Uuid;

use super::Watcher;
use super::look::{Known, Origin};
use super::recent::{Admitted, Footing};
use crate::authz::response::{POLICY_REVISION, PRINCIPALS, STANDS_ALONE};
use crate::authz::{BodyParsing, identity, request};
use crate::principal::Caller;

/// Under which Envoy's ext_authz leaves metadata, unless it is called otherwise.
const EXT_AUTHZ: &str = "envoy.filters.http.ext_authz";

/// What ext_authz said.
struct Decided {
    id: Uuid,
    grants: Vec<String>,
    principals: Vec<String>,
    revision: Option<String>,
    stands_alone: bool,
}

impl Decided {
    /// Generators of configurations give the filter other names: then it is the one namespace that looks like it.
    fn of(metadata: &Metadata) -> Option<Self> {
        if let Some(own) = metadata.filter_metadata.get(EXT_AUTHZ) {
            return Self::read(own);
        }
        let mut found = metadata.filter_metadata.values().filter_map(Self::read);
        found.next().filter(|_| found.next().is_none())
    }

    fn read(fields: &Struct) -> Option<Self> {
        let id = Uuid::try_parse(text(fields, "decision_id")?).ok()?;
        // Without a reason the rest is a policy's own, which may have names like these.
        let is_ours = text(fields, "reason").is_some();
        let ours = |name: &str| text(fields, name).filter(|_| is_ours).unwrap_or_default();
        let ids = ours("grant").split(',').filter(|id| !id.is_empty());
        Some(Self {
            id,
            grants: ids.map(str::to_owned).collect(),
            principals: if is_ours { texts(fields, PRINCIPALS) } else { Vec::new() },
            revision: Some(ours(POLICY_REVISION)).filter(|text| !text.is_empty()).map(str::to_owned),
            stands_alone: is_ours && is_true(fields, STANDS_ALONE),
        })
    }
}

fn text<'a>(fields: &'a Struct, name: &str) -> Option<&'a str> {
    match fields.fields.get(name)?.kind.as_ref()? {
        ValueKind::StringValue(text) => Some(text),
        _ => None,
    }
}

fn texts(fields: &Struct, name: &str) -> Vec<String> {
    let Some(ValueKind::ListValue(list)) = fields.fields.get(name).and_then(|value| value.kind.as_ref())
    else {
        return Vec::new();
    };
    let text = |kind: &Option<ValueKind>| match kind {
        Some(ValueKind::StringValue(text)) => Some(text.clone()),
        _ => None,
    };
    list.values.iter().filter_map(|value| text(&value.kind)).collect()
}

fn is_true(fields: &Struct, name: &str) -> bool {
    matches!(fields.fields.get(name).and_then(|value| value.kind.as_ref()), Some(ValueKind::BoolValue(true)))
}

impl Watcher {
    /// None if ext_authz has said nothing of this stream.
    pub(super) fn know(&self, headers: &HttpHeaders, metadata: Option<Metadata>) -> Option<Known> {
        let metadata = metadata?;
        let decided = Decided::of(&metadata)?;
        let known = match self.checker.streams.recent.take(decided.id) {
            Some(admitted) => self.admitted(admitted),
            None => self.inferred(decided, metadata),
        };
        Some(Known { request_id: request_id(headers), ..known })
    }

    fn admitted(&self, admitted: Admitted) -> Known {
        let Admitted { decision, request, caller, footing, revision } = admitted;
        let origin =
            request.map_or(Origin::HereUnkept, |request| Origin::Here(request.encode_to_vec().into()));
        self.known(decision, caller, footing, origin, Some(revision))
    }

    fn inferred(&self, decided: Decided, metadata: Metadata) -> Known {
        self.checker.metrics.count_inferred_stream();
        let replica = &self.checker.replica;
        let (mut grants, mut missing) = (Vec::new(), Vec::new());
        for id in decided.grants {
            match replica.get(&id) {
                Some(grant) => grants.push(grant),
                None => missing.push(id),
            }
        }
        let told = decided.principals.iter().filter_map(|name| name.parse().ok());
        let claimed = self.claimed(metadata);
        let claimed = claimed.principals().iter().cloned();
        let subjects = grants.iter().map(|grant| grant.subject.clone());
        let mut principals = Vec::new();
        for principal in told.chain(claimed).chain(subjects) {
            if !principals.contains(&principal) {
                principals.push(principal);
            }
        }
        let footing = Footing { grants, stands_alone: decided.stands_alone };
        let revision = decided.revision.map(Into::into);
        let known = self.known(decided.id, Caller::new(principals), footing, Origin::Elsewhere, revision);
        Known { missing, ..known }
    }

    fn known(
        &self,
        decision: Uuid,
        caller: Caller,
        footing: Footing,
        origin: Origin,
        revision: Option<std::sync::Arc<str>>,
    ) -> Known {
        Known {
            decision: decision.to_string().into(),
            request_id: None,
            caller,
            footing,
            origin,
            revision,
            end: None,
            missing: Vec::new(),
            began: self.checker.clock.now().boot,
            doubts: 0,
        }
    }

    /// Whom the verified claims name, if Envoy forwards them: for policies whose answers do not say who called.
    fn claimed(&self, metadata: Metadata) -> Caller {
        let attributes = AttributeContext { metadata_context: Some(metadata), ..AttributeContext::default() };
        let request = CheckRequest { attributes: Some(attributes) };
        let parsed = request::parse(&request, BodyParsing::Skip).ok();
        parsed
            .and_then(|parsed| identity::identify(&parsed, &self.checker.config.identity).ok())
            .unwrap_or_default()
    }
}

fn request_id(headers: &HttpHeaders) -> Option<Box<str>> {
    let all = headers.headers.iter().flat_map(|map| &map.headers);
    let id = all.into_iter().find(|header| header.key.eq_ignore_ascii_case("x-request-id"))?;
    let raw = String::from_utf8_lossy(&id.raw_value);
    Some(if raw.is_empty() { id.value.as_str().into() } else { raw.into() })
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::google::protobuf::Value;

    use super::*;

    fn namespace(fields: &[(&str, &str)]) -> Struct {
        let value = |text: &str| Value { kind: Some(ValueKind::StringValue(text.to_owned())) };
        Struct { fields: fields.iter().map(|(name, text)| ((*name).to_owned(), value(text))).collect() }
    }

    fn decided(namespaces: &[(&str, &[(&str, &str)])]) -> Option<Decided> {
        let all = namespaces.iter().map(|(name, fields)| ((*name).to_owned(), namespace(fields)));
        Decided::of(&Metadata { filter_metadata: all.collect(), ..Metadata::default() })
    }

    const ID: (&str, &str) = ("decision_id", "67e55044-10b1-426f-9247-bb680e5fe0c8");

    #[test]
    fn only_one_filter_can_have_decided() {
        assert!(decided(&[]).is_none());
        assert!(decided(&[("other", &[ID])]).is_some(), "renamed");
        assert!(decided(&[("other", &[ID]), ("another", &[ID])]).is_none(), "which?");
        let own = decided(&[("other", &[ID]), (EXT_AUTHZ, &[ID, ("reason", "grant"), ("grant", "a,b")])]);
        assert_eq!(own.unwrap().grants, ["a", "b"]);
        assert!(
            decided(&[(EXT_AUTHZ, &[("decision_id", "x")]), ("other", &[ID])]).is_none(),
            "no second choice"
        );
    }

    #[test]
    fn what_a_policy_says_of_its_own_is_not_ours() {
        let foreign = decided(&[(EXT_AUTHZ, &[ID, ("grant", "mine"), ("policy_revision", "r")])]).unwrap();
        assert!(foreign.grants.is_empty() && foreign.revision.is_none());
    }
}
