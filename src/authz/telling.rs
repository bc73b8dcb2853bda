//! What is told of a check that has been decided: the decision log, a span, and to the operator what went wrong.
//!
//! Changes no decision. What could identify a request elsewhere, its `x-request-id`, is in every line.

use std::borrow::Cow;
use std::sync::Arc;

use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;

use super::headers::Headers;
use super::{Answer, Checker, request};
use crate::audit::{self, Record};
use crate::metrics::CheckObserver;
use crate::trace::{Answered, Parent};

/// A check and its answer.
pub struct Told<'a> {
    pub request: &'a CheckRequest,
    pub answer: &'a Answer,
    /// Of the policy that decided.
    pub revision: &'a Arc<str>,
    pub id: &'a str,
    pub parent: Option<&'a Parent>,
    pub observer: &'a CheckObserver<'a>,
}

impl Checker {
    pub(super) fn tell(&self, told: &Told<'_>) {
        let Told { request, answer, revision, id, parent, observer } = *told;
        if let Some(log) = &self.log {
            log.record(self.record(told));
        }
        if let Some(error) = &answer.error {
            let (reason, request_id) = (answer.decision.reason_code(), request_id(request));
            tracing::warn!(decision_id = id, request_id = request_id.as_deref(), reason, "{error}");
        }
        if let Some(tracer) = &self.tracer {
            let request_id = request_id(request);
            let http = http(request);
            let answered = Answered {
                began: observer.started(),
                decision_id: id,
                allowed: answer.decision.is_allow(),
                reason: answer.decision.reason_code(),
                grants: answer.decision.basis().map(|basis| basis.grants.as_slice()).unwrap_or_default(),
                revision,
                request_id: request_id.as_deref(),
                method: http.map_or("", |http| &http.method),
                host: http.map_or("", |http| &http.host),
                steps: &answer.steps,
            };
            tracer.record(parent, &answered);
        }
    }

    fn record(&self, told: &Told<'_>) -> Record {
        let Told { request, answer, revision, id, parent, observer } = *told;
        let http = http(request);
        let headers = http.map_or_else(Headers::none, Headers::of);
        let path = http.map_or("", |http| http.path.split('?').next().unwrap_or_default());
        Record {
            v: 1,
            timestamp: self.clock.now().wall,
            decision_id: id.to_owned(),
            revision: Arc::clone(revision),
            allowed: answer.decision.is_allow(),
            reason: answer.decision.reason_code(),
            error: answer.error.clone().or_else(|| answer.bad_request.clone()),
            principals: answer.caller.principals().iter().map(ToString::to_string).collect(),
            grants: answer.decision.basis().map(|basis| basis.grants.clone()).unwrap_or_default(),
            lock: answer.decision.barrier.as_ref().map(|barrier| barrier.lock.clone()),
            request_id: headers.get("x-request-id").map(str::to_owned),
            stream_id: http.map(|http| http.id.clone()).filter(|id| !id.is_empty()),
            trace_id: parent.map(Parent::trace_id),
            method: http.map(|http| http.method.clone()).unwrap_or_default(),
            host: http.map(|http| http.host.clone()).unwrap_or_default(),
            path: path.to_owned(),
            source: request::source_address(request).map(|address| address.to_string()),
            headers: audit::masked(headers.iter()),
            duration_us: u64::try_from(observer.elapsed().as_micros()).unwrap_or(u64::MAX),
        }
    }
}

fn http(request: &CheckRequest) -> Option<&HttpRequest> {
    request.attributes.as_ref()?.request.as_ref()?.http.as_ref()
}

/// What Envoy calls the request in its own logs.
pub fn request_id(request: &CheckRequest) -> Option<Cow<'_, str>> {
    let http = http(request)?;
    match http.headers.get("x-request-id") {
        Some(id) => Some(Cow::Borrowed(id)),
        None if http.header_map.is_some() => {
            Headers::of(http).get("x-request-id").map(|id| Cow::Owned(id.to_owned()))
        }
        None => None,
    }
}
