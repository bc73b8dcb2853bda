//! An API without rules: it does what the command line may meet, in memory, and breaks when told to. The bearer token is the
//! caller's name.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use daypass::api::v1;
use daypass::api::v1::access_service_server::{AccessService, AccessServiceServer};
use daypass::api::v1::event_service_server::{EventService, EventServiceServer};
use daypass::api::v1::grant_service_server::{GrantService, GrantServiceServer};
use daypass::api::v1::lock_service_server::{LockService, LockServiceServer};
use daypass::api::v1::request_service_server::{RequestService, RequestServiceServer};
use daypass::api::v1::revoke_all_grants_request::Target;
use daypass::api::v1::search_access_requests::Relation;
use daypass::store::journal::{GENESIS, chain};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;
type Feed<T> = ReceiverStream<Result<T, Status>>;

#[derive(Default)]
pub struct Desk {
    pub requests: BTreeMap<String, v1::AccessRequest>,
    pub grants: BTreeMap<String, v1::Grant>,
    pub locks: BTreeMap<String, v1::Lock>,
    pub entitlements: Vec<v1::Entitlement>,
    pub events: Vec<v1::Event>,
    /// The number of the last event, if the caller does not see it.
    pub head: Option<u64>,
    pub explanation: v1::ExplainAccessResponse,
    /// Each call by its name and its caller.
    pub calls: Vec<String>,
    pub asked: Vec<v1::CreateAccessRequest>,
    pub explained: Vec<v1::ExplainAccessRequest>,
    /// What the next call of that name answers instead.
    pub failures: Vec<(&'static str, Status)>,
    next: u64,
}

#[expect(clippy::unnecessary_wraps, reason = "times are optional in messages")]
pub fn now_plus(seconds: i64) -> Option<prost_types::Timestamp> {
    let now = prost_types::Timestamp::from(SystemTime::now());
    Some(prost_types::Timestamp { seconds: now.seconds + seconds, nanos: now.nanos })
}

impl Desk {
    fn id(&mut self, kind: &str) -> String {
        self.next += 1;
        format!("{kind}-{}", self.next)
    }

    pub fn event(&mut self, kind: &str, subject: &str, reason: &str) {
        let number = u64::try_from(self.events.len()).unwrap() + 1;
        let before = self.events.last().map_or(GENESIS.to_owned(), |event| event.hash.clone());
        let document = serde_json::json!({"type": kind, "subject": subject, "reason": reason}).to_string();
        self.events.push(v1::Event {
            number,
            time: now_plus(-180),
            r#type: kind.into(),
            actor: "user:root".into(),
            subject: subject.into(),
            reason: reason.into(),
            hash: chain(&before, &document),
            document,
            ..Default::default()
        });
    }

    pub fn grant(&mut self, id: &str, subject: &str, entitlement: &str, seconds: i64) {
        let grant = v1::Grant {
            id: id.into(),
            subject: subject.into(),
            entitlement: entitlement.into(),
            permissions: vec![v1::Permission {
                hosts: vec!["orders.example".into()],
                paths: vec!["/db/**".into()],
                ..Default::default()
            }],
            expires_at: now_plus(seconds),
            state: v1::GrantState::Active.into(),
            ..Default::default()
        };
        self.grants.insert(id.into(), grant);
    }

    pub fn pending(&mut self, requester: &str, entitlement: &str) -> String {
        let id = self.id("r");
        let request = v1::AccessRequest {
            id: id.clone(),
            kind: v1::RequestKind::Access.into(),
            state: v1::RequestState::Pending.into(),
            entitlement: entitlement.into(),
            requester: requester.into(),
            subject: requester.into(),
            duration: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
            approvals_required: if entitlement == "two" { 2 } else { 1 },
            approvers: vec!["group:sre".into()],
            approve_by: now_plus(14_400),
            create_time: now_plus(0),
            ..Default::default()
        };
        self.requests.insert(id.clone(), request);
        id
    }

    fn review(&mut self, id: &str, review: v1::Review) -> Result<v1::AccessRequest, Status> {
        let mut request =
            self.requests.get(id).cloned().ok_or_else(|| Status::not_found("no such request"))?;
        if request.state() != v1::RequestState::Pending {
            return Err(Status::failed_precondition(format!("it is {}", request.state().as_str_name())));
        }
        let denied = review.decision() == v1::ReviewDecision::ReviewDenied;
        request.granted_duration = review.duration.or(request.duration);
        request.reviews.push(review);
        if denied {
            request.set_state(v1::RequestState::Denied);
        } else if request.reviews.len() >= usize::try_from(request.approvals_required).unwrap() {
            request.set_state(v1::RequestState::Approved);
            let seconds = request.granted_duration.map_or(3600, |length| length.seconds);
            if request.kind() == v1::RequestKind::Access {
                request.grant = self.id("g");
            }
            self.grant(&request.grant.clone(), &request.subject, &request.entitlement, seconds);
        }
        self.requests.insert(id.to_owned(), request.clone());
        Ok(request)
    }
}

#[derive(Clone)]
struct Service {
    desk: Arc<Mutex<Desk>>,
    /// Moves with every change.
    changed: Arc<watch::Sender<u64>>,
    /// Moves when every watch is to break.
    broken: Arc<watch::Sender<u64>>,
}

pub struct FakeApi {
    pub address: SocketAddr,
    service: Service,
    runtime: Option<tokio::runtime::Runtime>,
}

impl FakeApi {
    pub fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let service = Service {
            desk: Arc::default(),
            changed: Arc::new(watch::channel(0).0),
            broken: Arc::new(watch::channel(0).0),
        };
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(RequestServiceServer::new(service.clone()))
            .add_service(GrantServiceServer::new(service.clone()))
            .add_service(AccessServiceServer::new(service.clone()))
            .add_service(LockServiceServer::new(service.clone()))
            .add_service(EventServiceServer::new(service.clone()));
        runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { address, service, runtime: Some(runtime) }
    }

    pub fn with<T>(&self, change: impl FnOnce(&mut Desk) -> T) -> T {
        let result = change(&mut self.service.desk.lock().unwrap());
        self.service.changed.send_modify(|number| *number += 1);
        result
    }

    pub fn break_watches(&self) {
        self.service.broken.send_modify(|number| *number += 1);
    }

    /// How often a call was made.
    pub fn count(&self, call: &str) -> usize {
        self.with(|desk| desk.calls.iter().filter(|found| found.starts_with(call)).count())
    }
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Service {
    /// The caller, the message, and the desk.
    fn call<T, U>(
        &self,
        name: &'static str,
        request: Request<T>,
        answer: impl FnOnce(&mut Desk, &str, T) -> Result<U, Status>,
    ) -> Answer<U> {
        let bearer = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let caller = bearer.and_then(|text| text.strip_prefix("Bearer ")).unwrap_or("nobody").to_owned();
        let mut desk = self.desk.lock().unwrap();
        desk.calls.push(format!("{name} {caller}"));
        if let Some(place) = desk.failures.iter().position(|(call, _)| *call == name) {
            return Err(desk.failures.remove(place).1);
        }
        if caller == "nobody" || caller.starts_with("bad") {
            return Err(Status::unauthenticated("who are you?"));
        }
        let result = answer(&mut desk, &format!("user:{caller}"), request.into_inner());
        drop(desk);
        self.changed.send_modify(|number| *number += 1);
        result.map(Response::new)
    }

    /// What `look` finds, now and after every change, until it says that there is no more.
    /// `broken` is subscribed to before the call is counted: whoever waits for the count may break it at once.
    fn feed<T: Send + 'static>(
        &self,
        mut broken: watch::Receiver<u64>,
        mut look: impl FnMut(&Desk) -> (Vec<T>, bool) + Send + 'static,
    ) -> Feed<T> {
        let (sender, receiver) = mpsc::channel(1);
        let mut changed = self.changed.subscribe();
        let desk = Arc::clone(&self.desk);
        tokio::spawn(async move {
            loop {
                let (found, is_last) = look(&desk.lock().unwrap());
                for item in found {
                    if sender.send(Ok(item)).await.is_err() {
                        return;
                    }
                }
                if is_last {
                    return;
                }
                tokio::select! {
                    _ = changed.changed() => {}
                    _ = broken.changed() => {
                        let _ = sender.send(Err(Status::unavailable("going away"))).await;
                        return;
                    }
                }
            }
        });
        ReceiverStream::new(receiver)
    }
}

fn missing(what: &str) -> Status {
    Status::not_found(format!("no such {what}"))
}

#[tonic::async_trait]
impl RequestService for Service {
    async fn create_request(&self, request: Request<v1::CreateAccessRequest>) -> Answer<v1::AccessRequest> {
        self.call("create_request", request, |desk, caller, message| {
            desk.asked.push(message.clone());
            if message.entitlement == "nothing" {
                return Err(Status::not_found("no such entitlement"));
            }
            let subject = if message.subject.is_empty() { caller.to_owned() } else { message.subject };
            let id = desk.pending(caller, &message.entitlement);
            let request = desk.requests.get_mut(&id).unwrap();
            request.subject = subject;
            request.justification = message.justification;
            request.ticket = message.ticket;
            request.not_before = message.not_before;
            if message.duration.is_some() {
                request.duration = message.duration;
            }
            if message.entitlement == "auto" {
                request.approvals_required = 0;
                request.set_state(v1::RequestState::Approved);
                request.reason = "nobody has to agree".into();
                request.grant = format!("g-{id}");
            }
            let mut request = request.clone();
            if message.validate_only {
                desk.requests.remove(&id);
                request.id = String::new();
            } else if !request.grant.is_empty() {
                let seconds = request.duration.unwrap().seconds;
                desk.grant(&request.grant, &request.subject, &request.entitlement, seconds);
            }
            Ok(request)
        })
    }

    async fn get_request(&self, request: Request<v1::GetAccessRequest>) -> Answer<v1::AccessRequest> {
        self.call("get_request", request, |desk, _, message| {
            desk.requests.get(&message.id).cloned().ok_or_else(|| missing("request"))
        })
    }

    async fn list_requests(
        &self,
        request: Request<v1::ListAccessRequests>,
    ) -> Answer<v1::ListAccessRequestsResponse> {
        self.call("list_requests", request, |desk, _, message| {
            let wanted = |request: &&v1::AccessRequest| {
                (message.state == 0 || request.state == message.state)
                    && (message.entitlement.is_empty() || request.entitlement == message.entitlement)
            };
            let all: Vec<_> = desk.requests.values().filter(wanted).cloned().collect();
            let from: usize = message.page_token.parse().unwrap_or(0);
            let to = all.len().min(from + usize::try_from(message.page_size).unwrap());
            let next_page_token = if to < all.len() { to.to_string() } else { String::new() };
            Ok(v1::ListAccessRequestsResponse { requests: all[from..to].to_vec(), next_page_token })
        })
    }

    async fn search_requests(
        &self,
        request: Request<v1::SearchAccessRequests>,
    ) -> Answer<v1::ListAccessRequestsResponse> {
        self.call("search_requests", request, |desk, caller, message| {
            let wanted = |request: &&v1::AccessRequest| match message.relation() {
                Relation::Mine => request.requester == caller || request.subject == caller,
                Relation::CanReview => {
                    request.state() == v1::RequestState::Pending && request.requester != caller
                }
                Relation::Reviewed => request.reviews.iter().any(|review| review.reviewer == caller),
                Relation::Unspecified => false,
            };
            let requests = desk.requests.values().filter(wanted).cloned().collect();
            Ok(v1::ListAccessRequestsResponse { requests, next_page_token: String::new() })
        })
    }

    async fn approve_request(&self, request: Request<v1::ApproveAccessRequest>) -> Answer<v1::AccessRequest> {
        self.call("approve_request", request, |desk, caller, message| {
            let review = v1::Review {
                reviewer: caller.into(),
                decision: v1::ReviewDecision::ReviewApproved.into(),
                reason: message.reason,
                time: now_plus(0),
                duration: message.duration,
            };
            desk.review(&message.id, review)
        })
    }

    async fn deny_request(&self, request: Request<v1::DenyAccessRequest>) -> Answer<v1::AccessRequest> {
        self.call("deny_request", request, |desk, caller, message| {
            let review = v1::Review {
                reviewer: caller.into(),
                decision: v1::ReviewDecision::ReviewDenied.into(),
                reason: message.reason,
                time: now_plus(0),
                duration: None,
            };
            desk.review(&message.id, review)
        })
    }

    async fn withdraw_request(
        &self,
        request: Request<v1::WithdrawAccessRequest>,
    ) -> Answer<v1::AccessRequest> {
        self.call("withdraw_request", request, |desk, _, message| {
            let request = desk.requests.get_mut(&message.id).ok_or_else(|| missing("request"))?;
            request.set_state(v1::RequestState::Withdrawn);
            Ok(request.clone())
        })
    }

    type WatchRequestStream = Feed<v1::AccessRequest>;

    async fn watch_request(
        &self,
        request: Request<v1::WatchAccessRequest>,
    ) -> Answer<Self::WatchRequestStream> {
        let id = request.get_ref().id.clone();
        let broken = self.broken.subscribe();
        self.call("watch_request", request, |desk, _, message| {
            desk.requests.get(&message.id).map(|_| ()).ok_or_else(|| missing("request"))
        })?;
        let mut shown = None;
        Ok(Response::new(self.feed(broken, move |desk| {
            let request = desk.requests.get(&id).cloned();
            let is_last = request.as_ref().is_none_or(|found| found.state() != v1::RequestState::Pending);
            let news = if request == shown { None } else { request.clone() };
            shown = request;
            (news.into_iter().collect(), is_last)
        })))
    }
}

#[tonic::async_trait]
impl GrantService for Service {
    async fn create_grant(&self, request: Request<v1::CreateGrantRequest>) -> Answer<v1::Grant> {
        self.call("create_grant", request, |desk, _, message| {
            let mut grant = message.grant.ok_or_else(|| Status::invalid_argument("`grant` is missing"))?;
            if grant.id.is_empty() {
                grant.id = desk.id("g");
            }
            grant.expires_at = now_plus(message.ttl.unwrap_or_default().seconds);
            desk.grants.insert(grant.id.clone(), grant.clone());
            Ok(grant)
        })
    }

    async fn get_grant(&self, request: Request<v1::GetGrantRequest>) -> Answer<v1::Grant> {
        self.call("get_grant", request, |desk, _, message| {
            desk.grants.get(&message.id).cloned().ok_or_else(|| missing("grant"))
        })
    }

    async fn list_grants(&self, request: Request<v1::ListGrantsRequest>) -> Answer<v1::ListGrantsResponse> {
        self.call("list_grants", request, |desk, _, message| {
            let wanted = |grant: &&v1::Grant| {
                (message.subject.is_empty() || grant.subject == message.subject)
                    && (message.entitlement.is_empty() || grant.entitlement == message.entitlement)
                    && (message.include_ended
                        || !matches!(grant.state(), v1::GrantState::Revoked | v1::GrantState::Ended))
            };
            let grants = desk.grants.values().filter(wanted).cloned().collect();
            Ok(v1::ListGrantsResponse { grants, next_page_token: String::new() })
        })
    }

    type WatchGrantStream = Feed<v1::Grant>;

    async fn watch_grant(&self, _: Request<v1::WatchGrantRequest>) -> Answer<Self::WatchGrantStream> {
        Err(Status::unimplemented("the command line does not watch grants"))
    }

    async fn extend_grant(
        &self,
        request: Request<v1::ExtendGrantRequest>,
    ) -> Answer<v1::ExtendGrantResponse> {
        self.call("extend_grant", request, |desk, caller, message| {
            let mut grant = desk.grants.get(&message.id).cloned().ok_or_else(|| missing("grant"))?;
            if grant.entitlement.is_empty() {
                let seconds = message.duration.unwrap_or_default().seconds;
                grant.expires_at = grant
                    .expires_at
                    .map(|end| prost_types::Timestamp { seconds: end.seconds + seconds, nanos: end.nanos });
                desk.grants.insert(grant.id.clone(), grant.clone());
                return Ok(v1::ExtendGrantResponse { grant: Some(grant), request: None });
            }
            let id = desk.pending(caller, &grant.entitlement);
            let request = desk.requests.get_mut(&id).unwrap();
            request.set_kind(v1::RequestKind::Extension);
            request.grant.clone_from(&grant.id);
            request.duration = message.duration;
            Ok(v1::ExtendGrantResponse { grant: Some(grant), request: Some(request.clone()) })
        })
    }

    async fn revoke_grant(
        &self,
        request: Request<v1::RevokeGrantRequest>,
    ) -> Answer<v1::RevokeGrantResponse> {
        self.call("revoke_grant", request, |desk, _, message| {
            desk.grants.remove(&message.id).ok_or_else(|| missing("grant"))?;
            Ok(v1::RevokeGrantResponse { ids: vec![message.id], replicas: 0, replicated: 0 })
        })
    }

    async fn relinquish_grant(
        &self,
        request: Request<v1::RelinquishGrantRequest>,
    ) -> Answer<v1::RevokeGrantResponse> {
        self.call("relinquish_grant", request, |desk, _, message| {
            desk.grants.remove(&message.id).ok_or_else(|| missing("grant"))?;
            Ok(v1::RevokeGrantResponse { ids: vec![message.id], replicas: 0, replicated: 0 })
        })
    }

    async fn revoke_all_grants(
        &self,
        request: Request<v1::RevokeAllGrantsRequest>,
    ) -> Answer<v1::RevokeGrantResponse> {
        self.call("revoke_all_grants", request, |desk, _, message| {
            let wanted = |grant: &v1::Grant| match &message.target {
                Some(Target::Subject(subject)) => grant.subject == *subject,
                Some(Target::Entitlement(entitlement)) => grant.entitlement == *entitlement,
                Some(Target::Everything(everything)) => *everything,
                None => false,
            };
            let ids: Vec<String> =
                desk.grants.values().filter(|grant| wanted(grant)).map(|grant| grant.id.clone()).collect();
            if !message.validate_only {
                desk.grants.retain(|id, _| !ids.contains(id));
            }
            Ok(v1::RevokeGrantResponse { ids, replicas: 0, replicated: 0 })
        })
    }
}

#[tonic::async_trait]
impl AccessService for Service {
    async fn list_entitlements(
        &self,
        request: Request<v1::ListEntitlementsRequest>,
    ) -> Answer<v1::ListEntitlementsResponse> {
        self.call("list_entitlements", request, |desk, _, _| {
            let entitlements = desk.entitlements.clone();
            Ok(v1::ListEntitlementsResponse { entitlements, next_page_token: String::new() })
        })
    }

    async fn get_entitlement(&self, request: Request<v1::GetEntitlementRequest>) -> Answer<v1::Entitlement> {
        self.call("get_entitlement", request, |desk, _, message| {
            let found = desk.entitlements.iter().find(|found| found.name == message.name);
            found.cloned().ok_or_else(|| missing("entitlement"))
        })
    }

    async fn break_glass(&self, request: Request<v1::BreakGlassRequest>) -> Answer<v1::Grant> {
        self.call("break_glass", request, |desk, caller, message| {
            let seconds = message.duration.map_or(3600, |length| length.seconds);
            desk.grant("g-glass", caller, &message.entitlement, seconds);
            let grant = desk.grants.get_mut("g-glass").unwrap();
            grant.break_glass = true;
            grant.justification = message.reason;
            Ok(grant.clone())
        })
    }

    async fn explain_access(
        &self,
        request: Request<v1::ExplainAccessRequest>,
    ) -> Answer<v1::ExplainAccessResponse> {
        self.call("explain_access", request, |desk, _, message| {
            desk.explained.push(message);
            Ok(desk.explanation.clone())
        })
    }

    async fn get_caller(&self, request: Request<v1::GetCallerRequest>) -> Answer<v1::CallerIdentity> {
        self.call("get_caller", request, |_, caller, _| {
            Ok(v1::CallerIdentity {
                subject: caller.into(),
                principals: vec![caller.into(), "group:dev".into()],
                source: "token".into(),
                ..Default::default()
            })
        })
    }
}

#[tonic::async_trait]
impl LockService for Service {
    async fn create_lock(&self, request: Request<v1::CreateLockRequest>) -> Answer<v1::Lock> {
        self.call("create_lock", request, |desk, caller, message| {
            let mut lock = message.lock.ok_or_else(|| Status::invalid_argument("`lock` is missing"))?;
            lock.id = desk.id("l");
            lock.created_by = caller.into();
            lock.expires_at = now_plus(message.ttl.unwrap_or_default().seconds);
            desk.locks.insert(lock.id.clone(), lock.clone());
            Ok(lock)
        })
    }

    async fn list_locks(&self, request: Request<v1::ListLocksRequest>) -> Answer<v1::ListLocksResponse> {
        self.call("list_locks", request, |desk, _, _| {
            let locks = desk.locks.values().cloned().collect();
            Ok(v1::ListLocksResponse { locks, next_page_token: String::new() })
        })
    }

    async fn delete_lock(&self, request: Request<v1::DeleteLockRequest>) -> Answer<v1::Lock> {
        self.call("delete_lock", request, |desk, _, message| {
            desk.locks.remove(&message.id).ok_or_else(|| missing("lock"))
        })
    }
}

fn is_of(kind: &str, wanted: &str) -> bool {
    wanted.is_empty()
        || wanted == kind
        || wanted.strip_suffix('*').is_some_and(|family| kind.starts_with(family))
}

#[tonic::async_trait]
impl EventService for Service {
    async fn list_events(&self, request: Request<v1::ListEventsRequest>) -> Answer<v1::ListEventsResponse> {
        self.call("list_events", request, |desk, _, message| {
            let size = usize::try_from(message.page_size).unwrap();
            let behind: Vec<_> = desk.events.iter().filter(|event| event.number > message.after).collect();
            // Pages are of what was looked at: one may be empty and not the last.
            let next_after = if behind.len() > size { behind[size - 1].number } else { 0 };
            let looked = behind.into_iter().take(size);
            let events = looked
                .filter(|event| is_of(&event.r#type, &message.r#type))
                .filter(|event| message.subject.is_empty() || event.subject == message.subject)
                .cloned()
                .collect();
            let last_number = desk.head.unwrap_or(desk.events.last().map_or(0, |event| event.number));
            Ok(v1::ListEventsResponse { events, next_after, last_number })
        })
    }

    type WatchEventsStream = Feed<v1::Event>;

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Answer<Self::WatchEventsStream> {
        let message = request.get_ref().clone();
        let broken = self.broken.subscribe();
        let mut after = self
            .call("watch_events", request, |desk, _, message| {
                let last = desk.events.last().map_or(0, |event| event.number);
                Ok(if message.after == 0 { last } else { message.after })
            })?
            .into_inner();
        Ok(Response::new(self.feed(broken, move |desk| {
            let found: Vec<_> = desk.events.iter().filter(|event| event.number > after).cloned().collect();
            after = found.last().map_or(after, |event| event.number);
            (found.into_iter().filter(|event| is_of(&event.r#type, &message.r#type)).collect(), false)
        })))
    }
}

/// How long a command that waits is left alone before something happens.
pub const A_MOMENT: Duration = Duration::from_millis(300);
