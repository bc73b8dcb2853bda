//! The only place that builds a CheckResponse.
//!
//! An empty CheckResponse is an *allow* to Envoy, and so is a `denied_response` under status 0. Here every response
//! gets its status from a [`Verdict`], and clippy forbids the constructors that would leave it out.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption, QueryParameter};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{BoolValue, ListValue, Struct, Value};
use envoy_types::pb::google::rpc::Status;

use super::deadline::{StreamLimits, Term};
use crate::decision::{AllowReason, Decision, DeniedHttp, DenyReason, Json, Mutations, Verdict};
use crate::principal::Principal;

/// `google.rpc.Code`. Anything but 0 denies.
const OK: i32 = 0;
const PERMISSION_DENIED: i32 = 7;

/// Whose contract an answer keeps where the two differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contract {
    /// Every answer carries its reason.
    Daypass,
    /// For a policy that never names `input.jit`: what it decides without a grant is answered to the letter as
    /// OPA-Envoy answers it, so that whoever reads the metadata finds what was there before.
    OpaEnvoy,
}

/// Names in the metadata of an allow, for an instance that watches over what another let in.
pub const PRINCIPALS: &str = "principals";
pub const POLICY_REVISION: &str = "policy_revision";
pub const STANDS_ALONE: &str = "stands_alone";
/// Of all principals together. Envoy holds metadata as long as the stream lives. Callers with more names are known by their
/// claims.
const MAX_PRINCIPALS_BYTES: usize = 4 * 1024;

/// By what an allow can be told to stand no more.
#[derive(Debug, Clone, Copy)]
pub struct Rests<'a> {
    pub principals: &'a [Principal],
    pub revision: &'a str,
    /// On no grant, as policy said.
    pub stands_alone: bool,
}

/// What stands in the answer beside the decision.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    pub decision_id: &'a str,
    pub limits: StreamLimits,
    /// What the caller of a gRPC method said.
    pub caller_waits: Option<Duration>,
    pub contract: Contract,
    pub rests: Option<Rests<'a>>,
}

#[must_use]
pub fn render(decision: Decision, context: Context<'_>) -> CheckResponse {
    let metadata = metadata(&decision, context);
    let (code, http_response) = match decision.verdict {
        Verdict::Allow { mutations, basis, lease, .. } => {
            let term = Term::of(basis.as_ref(), lease, context.limits);
            (OK, ok(mutations, term.map(|term| term.headers(context.caller_waits))))
        }
        Verdict::Deny { http, .. } => {
            (PERMISSION_DENIED, http.map(|http| HttpResponse::DeniedResponse(denied(http))))
        }
    };
    CheckResponse {
        status: Some(Status { code, message: String::new(), details: Vec::new() }),
        dynamic_metadata: metadata,
        http_response,
    }
}

/// OPA-Envoy's answer to a request it cannot read: the error is the body and the status message.
#[must_use]
pub fn render_bad_request(decision: Decision, message: &str, context: Context<'_>) -> CheckResponse {
    let mut response = render(decision, context);
    if let Some(status) = &mut response.status {
        message.clone_into(&mut status.message);
    }
    response
}

fn ok(mutations: Option<Mutations>, limiting: Option<Vec<(&str, String)>>) -> Option<HttpResponse> {
    if mutations.is_none() && limiting.is_none() {
        return None;
    }
    let mutations = mutations.unwrap_or_default();
    // Ours come last: of two entries for one name Envoy takes the last, so policy cannot lengthen the deadline.
    let mut headers: Vec<_> =
        mutations.headers.into_iter().map(|(name, value)| overwrite(name, value)).collect();
    let limiting = limiting.unwrap_or_default();
    let is_ours = |name: &str| limiting.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
    let mut headers_to_remove = mutations.headers_to_remove;
    headers_to_remove.retain(|name| !is_ours(name));
    headers.extend(limiting.into_iter().map(|(name, value)| overwrite(name.to_owned(), value)));
    #[expect(deprecated, reason = "the message has a deprecated field, which stays empty")]
    let response = OkHttpResponse {
        headers,
        headers_to_remove,
        dynamic_metadata: None,
        response_headers_to_add: as_policy_said(mutations.response_headers_to_add),
        query_parameters_to_set: mutations
            .query_parameters_to_set
            .into_iter()
            .map(|(key, value)| QueryParameter { key, value })
            .collect(),
        query_parameters_to_remove: mutations.query_parameters_to_remove,
    };
    Some(HttpResponse::OkResponse(response))
}

fn denied(http: DeniedHttp) -> DeniedHttpResponse {
    let DeniedHttp { status, headers, body } = http;
    DeniedHttpResponse {
        status: Some(HttpStatus { code: status.into() }),
        headers: as_policy_said(headers),
        body,
    }
}

/// Envoy 1.40 looks only at the deprecated `append`, later ones only at `append_action`; both say "replace".
fn overwrite(key: String, value: String) -> HeaderValueOption {
    #[expect(deprecated, reason = "Envoy 1.40 reads nothing else for request headers")]
    HeaderValueOption {
        header: Some(HeaderValue { key, value, raw_value: Vec::new() }),
        append: Some(BoolValue { value: false }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        keep_empty_value: false,
    }
}

/// Headers to the client: added, so that two `set-cookie` stay two.
fn as_policy_said(pairs: Vec<(String, String)>) -> Vec<HeaderValueOption> {
    #[expect(deprecated, reason = "the message has a deprecated field, which stays empty")]
    let option = |(key, value)| HeaderValueOption {
        header: Some(HeaderValue { key, value, raw_value: Vec::new() }),
        append: None,
        append_action: HeaderAppendAction::AppendIfExistsOrAdd.into(),
        keep_empty_value: false,
    };
    pairs.into_iter().map(option).collect()
}

/// Policy's own metadata, under ours: an access log must be able to trust `grant` and `reason`.
fn metadata(decision: &Decision, context: Context<'_>) -> Option<Struct> {
    let mut fields: HashMap<String, Value> =
        decision.metadata.iter().map(|(name, value)| (name.clone(), json(value))).collect();
    let mut set = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    if context.contract == Contract::OpaEnvoy {
        match opa_knows(decision) {
            OpaKnows::Decision => {
                set("decision_id", text(context.decision_id));
                return Some(Struct { fields });
            }
            OpaKnows::BadRequest => return None,
            OpaKnows::Nothing => {}
        }
    }
    set("decision_id", text(context.decision_id));
    set("reason", text(decision.reason_code()));
    if let Verdict::Allow { reason: AllowReason::DryRun(reason), .. } = decision.verdict {
        set("would_deny", text(reason.code()));
    }
    if let Some(barrier) = &decision.barrier {
        set("lock", text(&barrier.lock));
    }
    if let Some(rests) = context.rests.filter(|_| decision.is_allow()) {
        set(POLICY_REVISION, text(rests.revision));
        let bytes: usize = rests.principals.iter().map(|principal| principal.as_str().len()).sum();
        if bytes <= MAX_PRINCIPALS_BYTES {
            let values = rests.principals.iter().map(|principal| text(&principal.to_string())).collect();
            set(PRINCIPALS, Value { kind: Some(Kind::ListValue(ListValue { values })) });
        }
        if rests.stands_alone {
            set(STANDS_ALONE, Value { kind: Some(Kind::BoolValue(true)) });
        }
    }
    if let Some(basis) = decision.basis() {
        set("grant", text(&basis.grants.join(",")));
        set("expires_at", text(&basis.expires_at.to_string()));
        set("seconds_left", number(basis.remaining.as_secs_f64()));
        if let Some(request) = &basis.request {
            set("request", text(request));
        }
        if !basis.approved_by.is_empty() {
            set("approved_by", text(&basis.approved_by.join(",")));
        }
        if let Some(ticket) = &basis.ticket {
            set("ticket", text(ticket));
        }
        if basis.break_glass {
            set("break_glass", Value { kind: Some(Kind::BoolValue(true)) });
        }
    }
    Some(Struct { fields })
}

/// What of a decision OPA-Envoy would have made too.
enum OpaKnows {
    /// Policy's own yes or no.
    Decision,
    /// A request that cannot be read, which it answers without metadata.
    BadRequest,
    /// Grants, and everything that is daypass' own denial.
    Nothing,
}

fn opa_knows(decision: &Decision) -> OpaKnows {
    match &decision.verdict {
        Verdict::Allow {
            reason: AllowReason::Policy | AllowReason::DryRun(DenyReason::PolicyDenied),
            ..
        }
        | Verdict::Deny { reason: DenyReason::PolicyDenied, .. } => OpaKnows::Decision,
        Verdict::Deny { reason: DenyReason::BadRequest, .. } => OpaKnows::BadRequest,
        Verdict::Allow { .. } | Verdict::Deny { .. } => OpaKnows::Nothing,
    }
}

fn text(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.to_owned())) }
}

fn number(number: f64) -> Value {
    Value { kind: Some(Kind::NumberValue(number)) }
}

fn json(value: &Json) -> Value {
    let kind = match value {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(*value),
        Json::Number(value) => return number(*value),
        Json::String(value) => return text(value),
        Json::List(items) => Kind::ListValue(ListValue { values: items.iter().map(json).collect() }),
        Json::Object(members) => Kind::StructValue(Struct {
            fields: members.iter().map(|(name, value)| (name.clone(), json(value))).collect(),
        }),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::decision::Basis;

    fn limits(lease: Option<u64>) -> StreamLimits {
        StreamLimits { lease: lease.map(Duration::from_secs), retry_horizon: Duration::from_secs(60) }
    }

    fn context(limits: StreamLimits) -> Context<'static> {
        Context { decision_id: "d", limits, caller_waits: None, contract: Contract::Daypass, rests: None }
    }

    #[test]
    fn policy_neither_lengthens_the_deadline_nor_forges_the_grant() {
        let basis = Basis {
            grants: vec!["g".into()],
            request: None,
            approved_by: Vec::new(),
            ticket: None,
            break_glass: false,
            expires_at: Timestamp::UNIX_EPOCH,
            remaining: Duration::from_secs(90),
        };
        let mutations = Mutations {
            headers: vec![("x-envoy-upstream-stream-duration-ms".into(), "999999999".into())],
            headers_to_remove: vec!["X-Envoy-Upstream-Stream-Duration-Ms".into(), "x-other".into()],
            ..Mutations::default()
        };
        let reason = AllowReason::Grant;
        let verdict = Verdict::Allow { reason, mutations: Some(mutations), basis: Some(basis), lease: None };
        let metadata = vec![("grant".into(), Json::String("forged".into()))];
        let response = render(Decision { verdict, metadata, barrier: None }, context(limits(Some(30))));
        assert_eq!(response.dynamic_metadata.unwrap().fields["grant"], text("g"));
        let Some(HttpResponse::OkResponse(ok)) = response.http_response else { panic!("not an allow") };
        let values: Vec<_> = ok.headers.into_iter().map(|header| header.header.unwrap().value).collect();
        assert_eq!(values, ["999999999", "30002"], "of two the last counts");
        assert_eq!(ok.headers_to_remove, ["x-other"]);
    }

    #[test]
    fn every_denial_has_a_status_that_denies() {
        for reason in DenyReason::ALL {
            let response = render(Decision::deny(reason), context(limits(None)));
            assert_eq!(response.status.unwrap().code, PERMISSION_DENIED);
            let Some(HttpResponse::DeniedResponse(denied)) = response.http_response else {
                panic!("{reason:?}")
            };
            assert_eq!(denied.status.unwrap().code, i32::from(reason.http_status()));
        }
    }
}
