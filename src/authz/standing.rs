//! How somebody stands towards a request that nobody made: decided as a check of it would be, by the same functions,
//! for a caller who is given. Takes no uses, and is no check to the metrics and the decision log.

use std::collections::HashMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use super::explain::{Bearing, bearing};
use super::request::{self, Parsed};
use super::uses::Spent;
use super::{Checker, Course, Measure};
use crate::decision::{Decision, DenyReason, Verdict};
use crate::principal::Caller;
use crate::standing::{Asked, GrantStanding, Standing};

/// As the threads that answer checks have, in bytes: evaluation recurses.
const STACK_BYTES: usize = 16 * 1024 * 1024;

/// Explanations at once, each of which has a thread and makes an engine. People ask for them.
const MAX_AT_ONCE: usize = 2;
static AT_ONCE: Semaphore = Semaphore::const_new(MAX_AT_ONCE);

impl Checker {
    /// On a thread of its own, because those of the API have not the stack that a policy may need.
    pub async fn standing(self: &Arc<Self>, caller: &Caller, asked: &Asked) -> Standing {
        let unknown = || told(&Decision::deny(DenyReason::Overloaded), Vec::new());
        let Ok(_permit) = AT_ONCE.acquire().await else { return unknown() };
        let (give, take) = oneshot::channel();
        let (checker, runtime) = (Arc::clone(self), Handle::current());
        let (caller, asked) = (caller.clone(), asked.clone());
        let thread = std::thread::Builder::new().name("explain".to_owned()).stack_size(STACK_BYTES);
        let spawned = thread.spawn(move || {
            // Nobody listens any more only if whoever asked has left.
            let _ = give.send(runtime.block_on(checker.stand(&caller, &asked)));
        });
        match spawned {
            Ok(_) => take.await.unwrap_or_else(|_| unknown()),
            Err(error) => {
                tracing::warn!("no thread to explain on: {error}");
                unknown()
            }
        }
    }

    async fn stand(&self, caller: &Caller, asked: &Asked) -> Standing {
        let request = check_request(asked);
        let parse = || request::parse(&request, self.config.body_parsing);
        let Ok(parsed) = parse() else {
            return told(&Decision::deny(DenyReason::BadRequest), self.grant_standings(caller, None));
        };
        let rules = self.rules.current();
        let course = Course {
            request: &request,
            rules: &rules,
            caller,
            began: self.clock.now(),
            settle_by: Instant::now() + self.config.settle_timeout,
            measure: Measure::No,
        };
        let weighed = self.weigh(&course, parsed, &Spent::default()).await;
        let parsed = parse().ok();
        told(&weighed.decision, self.grant_standings(caller, parsed.as_ref()))
    }

    fn grant_standings(&self, caller: &Caller, parsed: Option<&Parsed<'_>>) -> Vec<GrantStanding> {
        let now = self.clock.now();
        let mut grants = self.replica.held(caller, now);
        grants.sort_by(|a, b| a.id.cmp(&b.id));
        let mut unlocked = grants.clone();
        let locked = self.replica.take_locked(&mut unlocked, now);
        let standing = |grant: &Arc<crate::grant::Grant>| {
            let lock = locked.iter().find(|(other, _)| Arc::ptr_eq(other, grant)).map(|(_, lock)| lock);
            let why_not = match (parsed, lock) {
                (_, Some(lock)) => Some(format!("its entitlement is locked: {}", lock.message)),
                (None, None) => Some("the request cannot be read".to_owned()),
                (Some(parsed), None) => match bearing(grant, caller, parsed, now) {
                    Bearing::Covers => None,
                    Bearing::NotCovering(why) => Some(why),
                    Bearing::NotYet => Some("it has not begun".to_owned()),
                    Bearing::Ended => Some("it has ended".to_owned()),
                    Bearing::NotTheCallers => Some("it is another's".to_owned()),
                },
            };
            GrantStanding {
                grant: grant.id.to_string(),
                covers: why_not.is_none(),
                why_not,
                expires_at: grant.lifetime.expires_at,
            }
        };
        grants.iter().map(standing).collect()
    }
}

fn told(decision: &Decision, grants: Vec<GrantStanding>) -> Standing {
    let basis = decision.basis();
    let message = match (&decision.verdict, &decision.barrier, basis) {
        (_, Some(barrier), _) => barrier.message.clone(),
        (Verdict::Deny { reason, .. }, None, _) => reason.message().to_owned(),
        (Verdict::Allow { .. }, None, Some(basis)) => {
            format!("allowed by {} until {}", basis.grants.join(", "), basis.expires_at)
        }
        (Verdict::Allow { .. }, None, None) => "allowed by policy, without a grant".to_owned(),
    };
    Standing {
        allowed: decision.is_allow(),
        reason: decision.reason_code(),
        message,
        grant: basis.and_then(|basis| basis.grants.first().cloned()),
        expires_at: basis.map(|basis| basis.expires_at),
        grants,
        lock: decision.barrier.as_ref().map(|barrier| barrier.lock.clone()),
    }
}

/// What Envoy would send of it.
fn check_request(asked: &Asked) -> CheckRequest {
    let Asked { host, method, path, source } = asked;
    let peer = source.map(|source| {
        let socket = SocketAddress { address: source.to_string(), ..SocketAddress::default() };
        Peer {
            address: Some(Address { address: Some(AddressKind::SocketAddress(socket)) }),
            ..Peer::default()
        }
    });
    let headers = [(":authority", host), (":method", method), (":path", path)];
    let headers: HashMap<_, _> =
        headers.into_iter().map(|(name, value)| (name.to_owned(), value.clone())).collect();
    let http = HttpRequest {
        method: method.clone(),
        host: host.clone(),
        path: path.clone(),
        headers,
        ..HttpRequest::default()
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            source: peer,
            request: Some(Request { http: Some(http), ..Request::default() }),
            ..AttributeContext::default()
        }),
    }
}
