//! The ext_proc face: one idle call for each live stream. Answers every message with "go on", and ends the stream out of turn.
//!
//! A call has no task and few buffers of its own; thousands of them wait here. It never touches headers or bodies.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Step;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Answer;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyResponse, GrpcStatus, HeadersResponse, HttpHeaders, ImmediateResponse, ProcessingRequest,
    ProcessingResponse, TrailersResponse,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use futures_util::{FutureExt, Stream, StreamExt};
use tokio::sync::oneshot;
use tokio::time::Sleep;
use tonic::body::Body;
use tonic::codec::{BufferSettings, Codec, Streaming};
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Response, Status};
use tonic_prost::ProstCodec;

use super::places::{Full, Place};
use super::{CLOSED, Watcher};
use crate::decision::{Decision, DeniedHttp, DenyReason, Verdict};
use crate::metrics::Unwatched;

/// Of each call's own buffers, in bytes. They grow to the one message that comes, the request's headers; the library's
/// default of 8 KiB for each direction would be most of what a call costs.
const BUFFER_BYTES: usize = 256;
/// For the request's headers, which Envoy sends with the call.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(2);
/// Answers are written when this many bytes wait.
const YIELD_BYTES: usize = 4096;
/// `grpc-status` of a stream that was ended (PERMISSION_DENIED), and of one that ran out (DEADLINE_EXCEEDED).
const PERMISSION_DENIED: u32 = 7;
const DEADLINE_EXCEEDED: u32 = 4;
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
            state: State::New(Box::pin(tokio::time::sleep(HEADERS_TIMEOUT))),
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
    /// Until the request's headers come, which Envoy sends at once.
    New(Pin<Box<Sleep>>),
    Watched(Watched),
    Over,
}

/// Why a stream is not watched.
enum Refusal {
    /// It goes on all the same.
    Unwatched(Unwatched),
    Ended(Box<Decision>),
}

/// A stream in the registry, and the place it takes among all.
struct Watched {
    id: u64,
    end: oneshot::Receiver<Decision>,
    _place: Place,
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
            State::New(timeout) => {
                if timeout.poll_unpin(cx).is_ready() {
                    call.state = State::Over;
                    return Poll::Ready(None);
                }
            }
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
                if matches!(self.state, State::New(_)) {
                    return Some(self.begin(&headers, message.metadata_context));
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

    fn begin(&mut self, headers: &HttpHeaders, metadata: Option<Metadata>) -> ProcessingResponse {
        let metrics = &self.watcher.checker.metrics;
        let go_on = response(Answer::RequestHeaders(HeadersResponse::default()));
        let (state, answer) = match self.watch(headers, metadata) {
            Ok(watched) => (State::Watched(watched), go_on),
            Err(Refusal::Unwatched(why)) => {
                metrics.count_unwatched(why);
                (State::Over, go_on)
            }
            Err(Refusal::Ended(decision)) => {
                metrics.count_stream_end(decision.reason_code());
                (State::Over, immediate(&decision))
            }
        };
        self.state = state;
        answer
    }

    fn watch(&self, headers: &HttpHeaders, metadata: Option<Metadata>) -> Result<Watched, Refusal> {
        let watcher = &self.watcher;
        if !watcher.is_enforcing() {
            return Err(Refusal::Unwatched(Unwatched::DryRun));
        }
        let known = watcher.know(headers, metadata).ok_or(Refusal::Unwatched(Unwatched::NoDecision))?;
        let place = Place::take(watcher, &known.caller).map_err(|full| match full {
            Full::All => Refusal::Unwatched(Unwatched::TooMany),
            Full::Caller => Refusal::Ended(Box::new(Decision::deny(DenyReason::Overloaded))),
        })?;
        let (give, end) = oneshot::channel();
        let known = known.ending(watcher.checker.clock.now());
        let id = watcher.registry.add(known, give).ok_or(Refusal::Unwatched(Unwatched::Stopping))?;
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
