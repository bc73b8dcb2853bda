//! The ext_authz face: one CheckRequest in, one CheckResponse out.
//!
//! The only code that sees Envoy's types. A check never ends in a gRPC error: those obey `failure_mode_allow`, which
//! is not ours to trust, so whatever goes wrong is answered as a denial with its reason.

mod body;
mod deadline;
mod explain;
mod go;
mod guard;
mod headers;
pub mod identity;
mod input;
mod json;
mod locks;
mod multipart;
mod request;
mod response;
mod rules;
mod settle;
mod standing;
mod telling;
mod uses;
pub mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::auth::v3::authorization_server::Authorization;
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use tokio::time::{timeout, timeout_at};
use tonic::{Request, Response, Status};

use crate::audit::DecisionLog;
use crate::clock::{Clock, Now};
use crate::decision::{Decision, DenyReason};
use crate::grant::{self, Grant};
use crate::metrics::{CheckObserver, Metrics};
use crate::policy::{self, GrantsKey};
use crate::principal::Caller;
use crate::replica::{Freshness, Lookup, Replica};
use crate::store::{Limited, Store, Use};
use crate::trace::{Parent, Step, Tracer};

pub use deadline::StreamLimits;
pub use explain::{Explanation, explain};
pub use guard::GuardedService;
pub use identity::IdentitySource;
pub use json::{CheckJsonError, check_request};
pub use request::BodyParsing;
pub use rules::{LiveRules, Rules};
pub use uses::RequestIds;
pub use watch::Streams;

use request::Parsed;
use response::Contract;
use settle::{Known, Obstacles, Settled};
use telling::Told;
use uses::{Next, Spent};
use watch::{Admitted, Footing};

/// Whether denials are only reported (`--dry-run`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforcement {
    Enforce,
    DryRun,
}

#[derive(Debug, Clone)]
pub struct Config {
    pub identity: Vec<IdentitySource>,
    pub body_parsing: BodyParsing,
    pub enforcement: Enforcement,
    pub stream: StreamLimits,
    /// For everything a check may wait for. Shorter than Envoy's own timeout, so that the answer is ours.
    pub check_timeout: Duration,
    /// For a changed grant to be read again, within `check_timeout`.
    pub settle_timeout: Duration,
    pub max_concurrent_checks: usize,
    /// Live streams that are watched over at once.
    pub watched_streams: watch::Room,
    pub request_ids: RequestIds,
}

/// Everything a check needs. Shared by all workers; nothing in it is locked across an await.
pub struct Checker {
    pub config: Config,
    pub rules: Arc<LiveRules>,
    pub replica: Arc<Replica>,
    pub store: Arc<Store>,
    pub metrics: Arc<Metrics>,
    pub log: Option<DecisionLog>,
    pub tracer: Option<Arc<Tracer>>,
    pub clock: Clock,
    pub in_flight: AtomicUsize,
    pub streams: Streams,
}

/// What an answer is rendered from, and the log is told.
struct Answer {
    decision: Decision,
    caller: Caller,
    /// For whoever watches what it let in. None while nobody does.
    footing: Option<Footing>,
    stands_alone: bool,
    /// For OPA-Envoy's form of a 400.
    bad_request: Option<String>,
    /// What went wrong inside, for the operator.
    error: Option<String>,
    steps: Vec<Step>,
}

/// Whether an evaluation counts among those of checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measure {
    Yes,
    No,
}

/// What stays the same while one request is decided.
struct Course<'a> {
    request: &'a CheckRequest,
    rules: &'a Rules,
    caller: &'a Caller,
    began: Now,
    /// Until then it may wait for what is being read again.
    settle_by: tokio::time::Instant,
    measure: Measure,
}

/// What was decided, before uses are taken, and on which grants it may rest.
struct Weighed {
    decision: Decision,
    limited: Vec<Limited>,
    error: Option<String>,
    active: Vec<Arc<Grant>>,
    stands_alone: bool,
    evaluation: Option<Step>,
}

impl Weighed {
    fn denied(decision: Decision) -> Self {
        Self {
            decision,
            limited: Vec::new(),
            error: None,
            active: Vec::new(),
            stands_alone: false,
            evaluation: None,
        }
    }

    fn footing(&self) -> Footing {
        let named = self.decision.basis().map(|basis| basis.grants.as_slice()).unwrap_or_default();
        let is_named = |grant: &&Arc<Grant>| named.iter().any(|id| id == grant.id.as_str());
        let grants = self.active.iter().filter(is_named).cloned().collect();
        Footing { grants, stands_alone: self.stands_alone }
    }
}

impl Answer {
    fn new(decision: Decision) -> Self {
        Self {
            decision,
            caller: Caller::default(),
            footing: None,
            stands_alone: false,
            bad_request: None,
            error: None,
            steps: Vec::new(),
        }
    }
}

impl Checker {
    /// One check, from message to message.
    pub async fn check(&self, request: &CheckRequest) -> CheckResponse {
        self.respond(uuid::Uuid::new_v4(), request, None).await.0
    }

    /// The same for a request that may become a stream: what was allowed is kept for its watch.
    async fn admit(&self, request: CheckRequest, parent: Option<&Parent>) -> CheckResponse {
        let decision = uuid::Uuid::new_v4();
        let (response, admission) = self.respond(decision, &request, parent).await;
        if let Some((caller, footing, revision)) = admission {
            let request = Some(request);
            self.streams.recent.put(Admitted { decision, caller, footing, revision, request });
        }
        response
    }

    /// The answer, and if it is an allow and anybody watches, what it rests on.
    async fn respond(
        &self,
        id: uuid::Uuid,
        request: &CheckRequest,
        parent: Option<&Parent>,
    ) -> (CheckResponse, Option<(Caller, Footing, Arc<str>)>) {
        let observer = self.metrics.observe_check();
        let id = id.hyphenated().to_string();
        // One set of rules from here to the answer, whatever is swapped in meanwhile.
        let rules = self.rules.current();
        let mut answer = match InFlight::enter(&self.in_flight, self.config.max_concurrent_checks) {
            Some(_in_flight) => self.answer(request, &rules, &id, &observer).await,
            None => Answer::new(Decision::deny(DenyReason::Overloaded)),
        };
        if self.config.enforcement == Enforcement::DryRun {
            answer.decision = answer.decision.into_dry_run();
        }
        self.tell(&Told {
            request,
            answer: &answer,
            revision: &rules.revision,
            id: &id,
            parent,
            observer: &observer,
        });
        observer.end(&answer.decision);
        let context = self.context(&rules, &id, deadline::grpc_timeout(request));
        let Answer { decision, caller, footing, stands_alone, bad_request, .. } = answer;
        let basis =
            response::Rests { principals: caller.principals(), revision: &rules.revision, stands_alone };
        let context = response::Context { rests: Some(basis), ..context };
        let footing = footing.filter(|_| decision.is_allow());
        let response = match &bad_request {
            Some(message) => response::render_bad_request(decision, message, context),
            None => response::render(decision, context),
        };
        let admission = footing.map(|footing| (caller, footing, Arc::clone(&rules.revision)));
        (response, admission)
    }

    fn context<'a>(
        &self,
        rules: &Rules,
        decision_id: &'a str,
        caller_waits: Option<Duration>,
    ) -> response::Context<'a> {
        let contract = match rules.policy.grants_key() {
            GrantsKey::Binding => Contract::Daypass,
            GrantsKey::Foreign => Contract::OpaEnvoy,
        };
        response::Context { decision_id, limits: self.config.stream, caller_waits, contract, rests: None }
    }

    /// For what never came to a decision: counted and answered, whoever sent it.
    fn deny_unasked(&self, reason: DenyReason, why: &str) -> CheckResponse {
        let observer = self.metrics.observe_check();
        let decision = Decision::deny(reason);
        let id = uuid::Uuid::new_v4().hyphenated().to_string();
        tracing::warn!(decision_id = id, reason = decision.reason_code(), "{why}");
        observer.end(&decision);
        response::render(decision, self.context(&self.rules.current(), &id, None))
    }

    /// Parse, identify, look up, evaluate, settle, consume. Where a use-limited grant turns out to be of no use, the
    /// check is decided again without it: the caller may hold another one.
    async fn answer(
        &self,
        request: &CheckRequest,
        rules: &Rules,
        id: &str,
        observer: &CheckObserver<'_>,
    ) -> Answer {
        let mut spent = Spent::default();
        let mut steps = Vec::new();
        let settle_by = tokio::time::Instant::now() + self.config.settle_timeout;
        loop {
            let parsed = match request::parse(request, self.config.body_parsing) {
                Ok(parsed) => parsed,
                Err(error) => return bad_request(&error),
            };
            let caller = match identity::identify(&parsed, &self.config.identity) {
                Ok(caller) => caller,
                Err(error) => {
                    let decision = Decision::deny_with(DenyReason::IdentityConflict, &error.to_string());
                    return Answer::new(decision);
                }
            };
            let began = self.clock.now();
            let course = Course { request, rules, caller: &caller, began, settle_by, measure: Measure::Yes };
            let weighed = self.weigh(&course, parsed, &spent).await;
            let footing = self.streams.recent.is_wanted().then(|| weighed.footing());
            let Weighed { decision, limited, error, active, evaluation, stands_alone } = weighed;
            steps.extend(evaluation.filter(|_| self.tracer.is_some()));
            if limited.is_empty() {
                let decision = spent.explain(decision);
                return Answer { decision, caller, footing, stands_alone, bad_request: None, error, steps };
            }
            let check = uses::check_key(request, id, self.config.request_ids);
            let asked = Instant::now();
            let taken = self.take_uses(limited, &check, &course, observer).await;
            steps.push(Step { name: "uses", began: asked, took: asked.elapsed() });
            let decision = match taken {
                Ok(Use::Taken) => {
                    let decision = self.still_known(decision, began);
                    self.unless_locked(&course, Settled::plain(decision), &active).await.decision
                }
                Ok(outcome) => match spent.note(outcome) {
                    Next::Again => continue,
                    Next::Deny(reason) => Decision::deny(reason),
                },
                Err(reason) => Decision::deny(reason),
            };
            let (bad_request, error) = (None, None);
            return Answer { decision, caller, footing, stands_alone, bad_request, error, steps };
        }
    }

    /// Looks up, evaluates and settles: all of a check but who asks and taking uses.
    async fn weigh(&self, course: &Course<'_>, parsed: Parsed<'_>, spent: &Spent) -> Weighed {
        let Course { caller, began: now, .. } = *course;
        let freshness = self.replica.freshness(now);
        let found = self.active_grants(course, freshness).await;
        // Behind the wait: a lock that was being read then is known now.
        if self.replica.has_locks()
            && let Some(lock) = self.replica.lock_on(caller, self.clock.now())
        {
            return Weighed::denied(settle::locked(&lock));
        }
        let on_everything = self.replica.lock_on_everything(now);
        let mut active = match (found, &on_everything) {
            (Ok(active), _) => active,
            (Err(_), Some(lock)) => return Weighed::denied(settle::locked(lock)),
            (Err(reason), None) => return Weighed::denied(Decision::deny(reason)),
        };
        spent.remove_from(&mut active);
        let on_covering = self.lock_on_covering(&mut active, &parsed.target, now);
        let locks =
            Obstacles { on_everything: on_everything.as_deref(), on_covering: on_covering.as_deref() };
        let (settled, evaluation, error) = self.decide(course, parsed, &active, freshness, locks);
        let settled = self.unless_locked(course, settled, &active).await;
        let Settled { decision, limited, stands_alone } = settled;
        Weighed { decision, limited, error, active, stands_alone, evaluation }
    }

    /// None if the replica may not be used: then policy sees no grants, and only what rests on none can pass.
    async fn active_grants(
        &self,
        course: &Course<'_>,
        freshness: Freshness,
    ) -> Result<Vec<Arc<Grant>>, DenyReason> {
        let Course { caller, began, settle_by, .. } = *course;
        if !freshness.is_fresh() {
            return Ok(Vec::new());
        }
        let found = match self.replica.lookup(caller, began) {
            Lookup::Unsettled => {
                let settled = self.replica.settled(caller, self.clock);
                let settled = timeout_at(settle_by, settled).await;
                // What was fresh before the wait need not be so after it.
                if !self.replica.freshness(self.clock.now()).is_fresh() {
                    return Err(DenyReason::Stale);
                }
                settled.map_err(|_| DenyReason::Stale)?
            }
            found => found,
        };
        match found {
            Lookup::Settled(active) => Ok(active),
            Lookup::Unsettled => Err(DenyReason::Stale),
            Lookup::TooMany => {
                let principals = caller.principals().iter().map(ToString::to_string).collect::<Vec<_>>();
                let request_id = telling::request_id(course.request);
                tracing::warn!(
                    request_id = request_id.as_deref(),
                    principals = principals.join(","),
                    "one of these holds more grants than allowed"
                );
                Err(DenyReason::TooManyGrants)
            }
        }
    }

    /// Covers, evaluates and settles. Pure but for the clock.
    fn decide(
        &self,
        course: &Course<'_>,
        parsed: Parsed<'_>,
        active: &[Arc<Grant>],
        freshness: Freshness,
        locks: Obstacles<'_>,
    ) -> (Settled, Option<Step>, Option<String>) {
        let Course { rules, caller, .. } = *course;
        let covering = grant::covering(active, &parsed.target);
        let input = input::build(parsed, rules.wanted, || policy::jit(caller, active, &covering, freshness));
        let started = Instant::now();
        let ruling = rules.policy.decide(input);
        let evaluation = Step { name: "policy", began: started, took: started.elapsed() };
        if course.measure == Measure::Yes {
            self.metrics.observe_evaluation(evaluation.took);
        }
        match ruling {
            Ok(ruling) => {
                // The clock is read again: evaluation may have taken until after the grant's end, or until nobody
                // knows whether it was revoked.
                let now = self.clock.now();
                let is_fresh = freshness.is_fresh() && self.replica.freshness(now).is_fresh();
                let known = Known { active, covering: &covering, is_fresh, locks };
                (settle::settle(ruling, rules.policy.grants_key(), known, now), Some(evaluation), None)
            }
            Err(error) => {
                let denied = Settled::plain(Decision::deny(DenyReason::PolicyError));
                (denied, Some(evaluation), Some(error.to_string()))
            }
        }
    }

    /// Taking uses took time, of which the grants have less left now, and in which they may have become unknown.
    fn still_known(&self, decision: Decision, decided: Now) -> Decision {
        let now = self.clock.now();
        if self.replica.freshness(now).is_fresh() {
            decision.after(now.boot.since(decided.boot))
        } else {
            Decision::deny(DenyReason::Stale)
        }
    }

    async fn take_uses(
        &self,
        limited: Vec<Limited>,
        check: &str,
        course: &Course<'_>,
        observer: &CheckObserver<'_>,
    ) -> Result<Use, DenyReason> {
        let left = self.config.check_timeout.saturating_sub(observer.elapsed());
        match timeout(left, self.store.take_uses(limited, check, left)).await {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(error)) => {
                let request_id = telling::request_id(course.request);
                let request_id = request_id.as_deref();
                tracing::warn!(check, request_id, "a use could not be taken: {error}");
                Err(DenyReason::Stale)
            }
            Err(_) => Err(DenyReason::Timeout),
        }
    }
}

/// OPA-Envoy's answer: policy is not asked, and the error goes to the client.
fn bad_request(error: &request::RequestError) -> Answer {
    let message = format!("request_parse_error: {error}");
    let mut decision = Decision::deny(DenyReason::BadRequest);
    if let crate::decision::Verdict::Deny { http: Some(http), .. } = &mut decision.verdict {
        http.headers.clear();
        http.body.clone_from(&message);
    }
    Answer { bad_request: Some(message), ..Answer::new(decision) }
}

/// Counts a check while it runs.
struct InFlight<'a>(&'a AtomicUsize);

impl<'a> InFlight<'a> {
    fn enter(count: &'a AtomicUsize, limit: usize) -> Option<Self> {
        let entered = Self(count);
        (count.fetch_add(1, Ordering::Relaxed) < limit).then_some(entered)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The tonic face of [`Checker`].
#[derive(Clone)]
struct AuthorizationService(Arc<Checker>);

#[tonic::async_trait]
impl Authorization for AuthorizationService {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let text = |name: &str| request.metadata().get(name).and_then(|value| value.to_str().ok());
        // Of the call itself, which is Envoy's; the request's own headers are anybody's.
        let parent = self.0.tracer.as_ref().and_then(|_| Parent::of(text("traceparent"), text("tracestate")));
        Ok(Response::new(self.0.admit(request.into_inner(), parent.as_ref()).await))
    }
}
