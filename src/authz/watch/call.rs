//! The ext_proc face: one idle call for each live stream. Answers every message with "go on", and ends the stream out of turn.
//!
//! A call has no task and few buffers of its own; thousands of them wait here. It never touches headers or bodies.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::service::auth::v3::AttributeContext;
use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Step;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Answer;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyResponse, GrpcStatus, HeadersResponse, HttpHeaders, ImmediateResponse, ProcessingRequest,
    ProcessingResponse, TrailersResponse,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::value::Kind as ValueKind;
use futures_util::{FutureExt, Stream, StreamExt};
use prost::Message;
use tokio::sync::oneshot;
use tonic::body::Body;
use tonic::codec::{BufferSettings, Codec, Streaming};
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Response, Status};
use tonic_prost::ProstCodec;
use uuid::Uuid;

use super::look::Known;
use super::recent::{Admitted, Footing};
use super::{CLOSED, GRANT_PATIENCE, Watcher};
use crate::authz::{identity, request};
use crate::decision::{Decision, DeniedHttp, DenyReason, Verdict};
use crate::metrics::Unwatched;
use crate::principal::Caller;

/// Of each call's own buffers, in bytes. They grow to the one message that comes, the request's headers; the library's
/// default of 8 KiB for each direction would be most of what a call costs.
const BUFFER_BYTES: usize = 256;
/// Answers are written when this many bytes wait.
const YIELD_BYTES: usize = 4096;
/// `grpc-status` of a stream that was ended (PERMISSION_DENIED), and of one that ran out (DEADLINE_EXCEEDED).
const PERMISSION_DENIED: u32 = 7;
const DEADLINE_EXCEEDED: u32 = 4;
/// Under which Envoy's ext_authz leaves metadata, unless it is called otherwise.
const EXT_AUTHZ: &str = "envoy.filters.http.ext_authz";
/// What Envoy's access log shows in `%RESPONSE_CODE_DETAILS%` is this and the reason.
const DETAILS_PREFIX: &str = "daypass_";

/// The ext_proc service of one thread.
#[derive(Clone)]
pub struct WatchService(Arc<Watcher>);

impl WatchService {
    #[must_use]
    pub fn new(watcher: Arc<Watcher>) -> Self {
        Self(watcher)
    }
}

impl NamedService for WatchService {
    const NAME: &'static str = "envoy.service.ext_proc.v3.ExternalProcessor";
}

impl Service<http::Request<Body>> for WatchService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != "/envoy.service.ext_proc.v3.ExternalProcessor/Process" {
                return Ok(Status::unimplemented("the watch has one method, Process").into_http());
            }
            Ok(Grpc::new(SmallCodec).streaming(service, request).await)
        })
    }
}

impl StreamingService<ProcessingRequest> for WatchService {
    type Response = ProcessingResponse;
    type ResponseStream = Call;
    type Future = std::future::Ready<Result<Response<Call>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<ProcessingRequest>>) -> Self::Future {
        let watcher = Arc::clone(&self.0);
        std::future::ready(Ok(Response::new(Call {
            watcher,
            steps: request.into_inner(),
            state: State::New,
        })))
    }
}

/// tonic's own, with small buffers.
struct SmallCodec;

impl Codec for SmallCodec {
    type Encode = ProcessingResponse;
    type Decode = ProcessingRequest;
    type Encoder = <ProstCodec<ProcessingResponse, ProcessingRequest> as Codec>::Encoder;
    type Decoder = <ProstCodec<ProcessingResponse, ProcessingRequest> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<ProcessingResponse, ProcessingRequest>::raw_encoder(buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<ProcessingResponse, ProcessingRequest>::raw_decoder(buffers())
    }
}

fn buffers() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
}

/// One call, as the stream of its answers.
pub struct Call {
    watcher: Arc<Watcher>,
    steps: Streaming<ProcessingRequest>,
    state: State,
}

enum State {
    New,
    Watched(Watched),
    Over,
}

/// A stream in the registry, and the place it takes among all.
struct Watched {
    id: u64,
    end: oneshot::Receiver<Decision>,
    _place: Place,
}

/// Counts a live stream for as long as it is one.
struct Place(Arc<Watcher>);

impl Place {
    fn take(watcher: &Arc<Watcher>) -> Option<Self> {
        let live: &AtomicUsize = &watcher.checker.streams.live;
        let place = Self(Arc::clone(watcher));
        watcher.checker.metrics.set_streams_live(live.fetch_add(1, Ordering::Relaxed) + 1);
        (live.load(Ordering::Relaxed) <= watcher.checker.config.max_watched_streams).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let before = self.0.checker.streams.live.fetch_sub(1, Ordering::Relaxed);
        self.0.checker.metrics.set_streams_live(before.saturating_sub(1));
    }
}

impl Stream for Call {
    type Item = Result<ProcessingResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let call = self.get_mut();
        match &mut call.state {
            State::Over => return Poll::Ready(None),
            State::Watched(watched) => {
                if let Poll::Ready(ended) = watched.end.poll_unpin(cx) {
                    call.state = State::Over;
                    // Let go without a decision: the process stops, and the stream goes on.
                    return Poll::Ready(ended.ok().map(|decision| Ok(immediate(&decision))));
                }
            }
            State::New => {}
        }
        let Some(Ok(message)) = ready!(call.steps.poll_next_unpin(cx)) else {
            call.leave();
            return Poll::Ready(None);
        };
        Poll::Ready(call.step(message).map(Ok))
    }
}

impl Call {
    /// None ends the call, and Envoy goes on without it.
    fn step(&mut self, message: ProcessingRequest) -> Option<ProcessingResponse> {
        let answer = match message.request? {
            Step::RequestHeaders(headers) => {
                if matches!(self.state, State::New) {
                    self.begin(&headers, message.metadata_context.as_ref());
                }
                Answer::RequestHeaders(HeadersResponse::default())
            }
            Step::ResponseHeaders(_) => Answer::ResponseHeaders(HeadersResponse::default()),
            Step::RequestBody(_) => Answer::RequestBody(BodyResponse::default()),
            Step::ResponseBody(_) => Answer::ResponseBody(BodyResponse::default()),
            Step::RequestTrailers(_) => Answer::RequestTrailers(TrailersResponse::default()),
            Step::ResponseTrailers(_) => Answer::ResponseTrailers(TrailersResponse::default()),
        };
        Some(response(answer))
    }

    fn begin(&mut self, headers: &HttpHeaders, metadata: Option<&Metadata>) {
        match self.watch(headers, metadata) {
            Ok(watched) => self.state = State::Watched(watched),
            Err(why) => {
                self.watcher.checker.metrics.count_unwatched(why);
                self.state = State::Over;
            }
        }
    }

    fn watch(&self, headers: &HttpHeaders, metadata: Option<&Metadata>) -> Result<Watched, Unwatched> {
        let watcher = &self.watcher;
        if !watcher.is_enforcing() {
            return Err(Unwatched::DryRun);
        }
        let decided = metadata.and_then(Decided::of).ok_or(Unwatched::NoDecision)?;
        let place = Place::take(watcher).ok_or(Unwatched::TooMany)?;
        let known = match watcher.checker.streams.recent.take(decided.id) {
            Some(admitted) => exact(admitted),
            None => watcher.inferred(&decided, headers, metadata),
        };
        let (give, end) = oneshot::channel();
        let known = known.ending(watcher.checker.clock.now());
        let id = watcher.registry.add(known, give).ok_or(Unwatched::Stopping)?;
        Ok(Watched { id, end, _place: place })
    }

    fn leave(&mut self) {
        if let State::Watched(Watched { id, .. }) = std::mem::replace(&mut self.state, State::Over)
            && self.watcher.registry.remove(id)
        {
            self.watcher.checker.metrics.count_stream_end(CLOSED);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.leave();
    }
}

/// What ext_authz left in the metadata that Envoy forwards (`forwarding_namespaces`), whatever its filter is called.
struct Decided {
    id: Uuid,
    grants: Vec<String>,
}

impl Decided {
    fn of(metadata: &Metadata) -> Option<Self> {
        // By its own name where it has it; generators of configurations give it others.
        let own = metadata.filter_metadata.get(EXT_AUTHZ).into_iter();
        own.chain(metadata.filter_metadata.values()).find_map(|fields| {
            let text = |name: &str| match fields.fields.get(name)?.kind.as_ref()? {
                ValueKind::StringValue(text) => Some(text.as_str()),
                _ => None,
            };
            let id = Uuid::try_parse(text("decision_id")?).ok()?;
            let grants = text("grant").unwrap_or_default().split(',');
            Some(Self { id, grants: grants.filter(|id| !id.is_empty()).map(str::to_owned).collect() })
        })
    }
}

fn exact(admitted: Admitted) -> Known {
    let Admitted { decision, request, caller, footing, revision } = admitted;
    Known {
        decision: decision.to_string().into(),
        caller,
        footing,
        request: Some(request.encode_to_vec().into()),
        revision: Some(revision),
        end: None,
        missing: Vec::new(),
        missing_until: None,
    }
}

impl Watcher {
    /// What can be known of a stream whose request is gone: the first ones after the start, those that another instance
    /// decided. Its caller is whom the forwarded metadata and headers name, and its grants.
    fn inferred(&self, decided: &Decided, headers: &HttpHeaders, metadata: Option<&Metadata>) -> Known {
        let replica = &self.checker.replica;
        let (mut grants, mut missing) = (Vec::new(), Vec::new());
        for id in &decided.grants {
            match replica.get(id) {
                Some(grant) => grants.push(grant),
                None => missing.push(id.clone()),
            }
        }
        let missing_until = (!missing.is_empty()).then(|| self.checker.clock.now().boot + GRANT_PATIENCE);
        let request = seen_by_ext_proc(headers, metadata.cloned());
        let parsed = request::parse(&request, crate::authz::BodyParsing::Skip);
        let caller =
            parsed.ok().and_then(|parsed| identity::identify(&parsed, &self.checker.config.identity).ok());
        let caller = caller.unwrap_or_default();
        let subjects = grants.iter().map(|grant| grant.subject.clone());
        let mut principals: Vec<_> = caller.principals().iter().cloned().chain(subjects).collect();
        principals.dedup();
        Known {
            decision: decided.id.to_string().into(),
            caller: Caller::new(principals),
            footing: Footing { grants, stands_alone: false },
            request: None,
            revision: None,
            end: None,
            missing,
            missing_until,
        }
    }
}

/// Enough of a request to see who calls. Not the one that was decided: other filters have had it in hand since.
fn seen_by_ext_proc(headers: &HttpHeaders, metadata: Option<Metadata>) -> CheckRequest {
    let list = headers.headers.iter().flat_map(|map| &map.headers);
    let headers: HashMap<_, _> = list
        .map(|header| {
            let raw = String::from_utf8_lossy(&header.raw_value).into_owned();
            (header.key.clone(), if raw.is_empty() { header.value.clone() } else { raw })
        })
        .collect();
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(Peer::default()),
            request: Some(Request {
                http: Some(HttpRequest { headers, ..HttpRequest::default() }),
                ..Request::default()
            }),
            metadata_context: metadata,
            ..AttributeContext::default()
        }),
    }
}

fn response(answer: Answer) -> ProcessingResponse {
    ProcessingResponse { response: Some(answer), ..ProcessingResponse::default() }
}

/// Cuts the stream. Of a response that has begun the client sees the end; of one that has not, why.
fn immediate(decision: &Decision) -> ProcessingResponse {
    let reason = decision.reason_code();
    let (status, body) = match &decision.verdict {
        Verdict::Deny { http: Some(DeniedHttp { status, body, .. }), .. } => (*status, body.clone()),
        Verdict::Deny { reason, http: None } => (reason.http_status(), String::new()),
        Verdict::Allow { .. } => (DenyReason::PolicyChanged.http_status(), String::new()),
    };
    let is_over = decision.deny_reason() == Some(DenyReason::GrantExpired);
    let grpc = GrpcStatus { status: if is_over { DEADLINE_EXCEEDED } else { PERMISSION_DENIED } };
    response(Answer::ImmediateResponse(ImmediateResponse {
        status: Some(HttpStatus { code: status.into() }),
        headers: None,
        body: body.into_bytes(),
        grpc_status: Some(grpc),
        details: format!("{DETAILS_PREFIX}{reason}"),
    }))
}
