//! Use-limited grants on the check path: what makes two checks one, and what to do when a grant turns out to be spent.

use std::sync::Arc;

use data_encoding::HEXLOWER;
use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use ring::digest::{Context, SHA256};

use super::headers::Headers;
use crate::decision::{Decision, DenyReason};
use crate::grant::{Grant, GrantId};
use crate::store::Use;

/// Whether `x-request-id` tells that a check repeats an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestIds {
    /// Anybody may have written it: every check is one of its own, and a repeated one costs a use of its own.
    Ignored,
    /// Envoy generates it and takes none from clients. Whoever could choose it would use one use many times.
    Trusted,
}

/// Times that one check is decided, each of which costs a round trip and is worth it only while there may be another
/// grant. The check's own time limit holds besides.
const MAX_ROUNDS: usize = 4;

/// The name under which uses are taken: the same for the same request and no other, whatever is in it. `id` names the
/// check itself, so that a store that did not answer can be asked again.
pub fn check_key(request: &CheckRequest, id: &str, request_ids: RequestIds) -> String {
    let http = request.attributes.as_ref().and_then(|attributes| attributes.request.as_ref()?.http.as_ref());
    let (RequestIds::Trusted, Some(http)) = (request_ids, http) else { return id.to_owned() };
    let headers = Headers::of(http);
    let Some(request_id) = headers.get("x-request-id").filter(|id| !id.is_empty()) else {
        return id.to_owned();
    };
    let mut digest = Context::new(&SHA256);
    for part in [request_id, &http.method, &http.host, &http.path] {
        // The length keeps two parts from being read as other two.
        digest.update(&part.len().to_be_bytes());
        digest.update(part.as_bytes());
    }
    HEXLOWER.encode(digest.finish().as_ref())
}

/// Grants that this check could not use, though the replica has them.
#[derive(Debug, Default)]
pub struct Spent {
    ids: Vec<GrantId>,
    /// Why not the first of them: it was the best.
    reason: Option<DenyReason>,
    rounds: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Decide again.
    Again,
    Deny(DenyReason),
}

impl Spent {
    pub fn remove_from(&self, active: &mut Vec<Arc<Grant>>) {
        active.retain(|grant| !self.ids.contains(&grant.id));
    }

    pub fn note(&mut self, outcome: Use) -> Next {
        self.rounds += 1;
        let (reason, id) = match outcome {
            // Taken is no outcome to decide again on; nobody could be let in by saying that something changed.
            Use::Taken | Use::Changed => (DenyReason::GrantChanged, None),
            Use::Exhausted(id) => (DenyReason::UsesExhausted, Some(id)),
            Use::Revoked(id) => (DenyReason::GrantRevoked, Some(id)),
            Use::Ended(id) => (DenyReason::GrantExpired, Some(id)),
        };
        if id.is_some() {
            self.reason.get_or_insert(reason);
        }
        self.ids.extend(id);
        if self.rounds < MAX_ROUNDS { Next::Again } else { Next::Deny(self.reason.unwrap_or(reason)) }
    }

    /// A denial for want of a grant that was there a moment ago says what became of it.
    pub fn explain(&self, decision: Decision) -> Decision {
        match self.reason {
            Some(reason) if !decision.is_allow() && decision.barrier.is_none() => Decision::deny(reason),
            _ => decision,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use envoy_types::pb::envoy::service::auth::v3::AttributeContext;
    use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};

    use super::*;

    fn check(request_id: &str, path: &str) -> CheckRequest {
        let http = HttpRequest {
            path: path.to_owned(),
            headers: HashMap::from([("x-request-id".to_owned(), request_id.to_owned())]),
            ..HttpRequest::default()
        };
        let request = Request { http: Some(http), ..Request::default() };
        CheckRequest {
            attributes: Some(AttributeContext { request: Some(request), ..AttributeContext::default() }),
        }
    }

    #[test]
    fn a_request_id_makes_two_checks_one_only_where_it_is_trusted() {
        let key = |check: &CheckRequest, id: &str, ids| check_key(check, id, ids);
        assert_eq!(key(&check("r", "/a"), "own", RequestIds::Ignored), "own");
        assert_eq!(key(&check("", "/a"), "own", RequestIds::Trusted), "own");
        let trusted =
            |request_id: &str, path: &str| check_key(&check(request_id, path), "own", RequestIds::Trusted);
        assert_eq!(trusted("r", "/a"), trusted("r", "/a"));
        assert_ne!(trusted("r", "/a"), trusted("r", "/b"));
        assert_ne!(trusted("r", "/a"), trusted("r/", "a"));
        assert!(trusted("r\r\n{x}", "/a").bytes().all(|byte| byte.is_ascii_hexdigit()));
    }

    #[test]
    fn a_spent_grant_is_left_out_and_named_if_nothing_else_helps() {
        let id = |id: &str| -> GrantId { id.parse().unwrap() };
        let mut spent = Spent::default();
        assert_eq!(spent.note(Use::Exhausted(id("a"))), Next::Again);
        assert_eq!(spent.note(Use::Changed), Next::Again);
        assert_eq!(spent.note(Use::Revoked(id("b"))), Next::Again);
        let mut active = ["a", "b", "c"]
            .map(|id| Arc::new(crate::grant::testing::grant(id, "user:alice", 1_000)))
            .to_vec();
        spent.remove_from(&mut active);
        assert_eq!(active.len(), 1);
        assert_eq!(spent.explain(Decision::deny(DenyReason::NoGrant)).reason_code(), "uses_exhausted");
        assert_eq!(spent.note(Use::Changed), Next::Deny(DenyReason::UsesExhausted));
        let mut restless = Spent::default();
        while restless.note(Use::Changed) == Next::Again {}
        assert_eq!(restless.explain(Decision::deny(DenyReason::NoGrant)).reason_code(), "no_grant");
    }
}
