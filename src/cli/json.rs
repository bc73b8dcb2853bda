//! The one shape of JSON that all commands print: the fields of the API's messages under their names there, times in
//! RFC 3339, lengths in seconds. What is empty, 0 or false is left out, but for answers that consist of it.

use prost_types::value::Kind;
use serde_json::{Map, Number, Value, json};

use super::when;
use crate::api::v1;

#[derive(Default)]
struct Members(Map<String, Value>);

impl Members {
    fn set(&mut self, name: &str, value: impl Into<Value>) -> &mut Self {
        let value = value.into();
        let is_empty = match &value {
            Value::Null | Value::Bool(false) => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(found) => found.is_empty(),
            Value::Number(number) => number.as_f64() == Some(0.0),
            Value::Bool(true) => false,
        };
        if is_empty { self } else { self.always(name, value) }
    }

    fn always(&mut self, name: &str, value: impl Into<Value>) -> &mut Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    fn done(&mut self) -> Value {
        Value::Object(std::mem::take(&mut self.0))
    }
}

fn moment(moment: Option<prost_types::Timestamp>) -> Value {
    when::from_proto(moment).map_or(Value::Null, |moment| json!(moment.to_string()))
}

fn seconds(length: Option<prost_types::Duration>) -> Value {
    match length {
        None => Value::Null,
        Some(length) if length.nanos == 0 => json!(length.seconds),
        Some(length) => {
            #[expect(clippy::cast_precision_loss, reason = "lengths are days, not ages of the universe")]
            let whole = length.seconds as f64;
            json!(whole + f64::from(length.nanos) / 1e9)
        }
    }
}

/// The name of an enum's value; the one that says nothing is left out.
fn name(name: &str) -> Value {
    if name.ends_with("_UNSPECIFIED") { Value::Null } else { json!(name) }
}

fn permissions(permissions: &[v1::Permission]) -> Value {
    let one = |permission: &v1::Permission| {
        Members::default()
            .set("hosts", permission.hosts.clone())
            .set("methods", permission.methods.clone())
            .set("paths", permission.paths.clone())
            .set("grpc_methods", permission.grpc_methods.clone())
            .done()
    };
    Value::Array(permissions.iter().map(one).collect())
}

fn attributes(attributes: &prost_types::Struct) -> Value {
    Value::Object(attributes.fields.iter().map(|(name, value)| (name.clone(), attribute(value))).collect())
}

/// As deep as the decoder of messages lets them be, which is 100.
fn attribute(value: &prost_types::Value) -> Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => json!(value),
        Some(Kind::StringValue(text)) => json!(text),
        Some(Kind::NumberValue(number)) => Number::from_f64(*number).map_or(Value::Null, Value::Number),
        Some(Kind::ListValue(list)) => Value::Array(list.values.iter().map(attribute).collect()),
        Some(Kind::StructValue(found)) => attributes(found),
    }
}

pub fn grant(grant: &v1::Grant) -> Value {
    let conditions = grant.conditions.as_ref();
    Members::default()
        .set("id", grant.id.clone())
        .set("subject", grant.subject.clone())
        .set("permissions", permissions(&grant.permissions))
        .set("not_before", moment(grant.not_before))
        .set("expires_at", moment(grant.expires_at))
        .set("max_uses", grant.max_uses)
        .set(
            "conditions",
            conditions.map_or(Value::Null, |found| {
                Members::default().set("source_cidrs", found.source_cidrs.clone()).done()
            }),
        )
        .set("roles", grant.roles.clone())
        .set("attributes", grant.attributes.as_ref().map_or(Value::Null, attributes))
        .set("entitlement", grant.entitlement.clone())
        .set("request", grant.request.clone())
        .set("approved_by", grant.approved_by.clone())
        .set("justification", grant.justification.clone())
        .set("ticket", grant.ticket.clone())
        .set("break_glass", grant.break_glass)
        .set("state", name(grant.state().as_str_name()))
        .set("extensions", grant.extensions)
        .set("ended_by", grant.ended_by.clone())
        .set("end_reason", grant.end_reason.clone())
        .set("create_time", moment(grant.create_time))
        .done()
}

pub fn revoked(revoked: &v1::RevokeGrantResponse) -> Value {
    json!({"revoked": revoked.ids, "replicas": revoked.replicas, "replicated": revoked.replicated})
}

fn review(review: &v1::Review) -> Value {
    Members::default()
        .set("reviewer", review.reviewer.clone())
        .set("decision", name(review.decision().as_str_name()))
        .set("reason", review.reason.clone())
        .set("time", moment(review.time))
        .set("duration", seconds(review.duration))
        .done()
}

pub fn request(request: &v1::AccessRequest) -> Value {
    Members::default()
        .set("id", request.id.clone())
        .set("kind", name(request.kind().as_str_name()))
        .set("state", name(request.state().as_str_name()))
        .set("entitlement", request.entitlement.clone())
        .set("entitlement_revision", request.entitlement_revision.clone())
        .set("requester", request.requester.clone())
        .set("subject", request.subject.clone())
        .set("delegate", request.delegate.clone())
        .set("justification", request.justification.clone())
        .set("ticket", request.ticket.clone())
        .set("duration", seconds(request.duration))
        .set("granted_duration", seconds(request.granted_duration))
        .set("not_before", moment(request.not_before))
        .set("approve_by", moment(request.approve_by))
        .set("create_time", moment(request.create_time))
        .set("decide_time", moment(request.decide_time))
        .set("approvals_required", request.approvals_required)
        .set("reviews", Value::Array(request.reviews.iter().map(review).collect()))
        .set("grant", request.grant.clone())
        .set("reason", request.reason.clone())
        .set("approvers", request.approvers.clone())
        .done()
}

pub fn lock(lock: &v1::Lock) -> Value {
    use v1::lock::Target;
    let mut members = Members::default();
    members.set("id", lock.id.clone());
    match &lock.target {
        Some(Target::Principal(principal)) => members.set("principal", principal.clone()),
        Some(Target::Entitlement(entitlement)) => members.set("entitlement", entitlement.clone()),
        Some(Target::Everything(everything)) => members.set("everything", *everything),
        None => &mut members,
    };
    members
        .set("message", lock.message.clone())
        .set("expires_at", moment(lock.expires_at))
        .set("created_by", lock.created_by.clone())
        .set("create_time", moment(lock.create_time))
        .done()
}

pub fn entitlement(entitlement: &v1::Entitlement) -> Value {
    Members::default()
        .set("name", entitlement.name.clone())
        .set("description", entitlement.description.clone())
        .set("permissions", permissions(&entitlement.permissions))
        .set("roles", entitlement.roles.clone())
        .set("eligible", entitlement.eligible.clone())
        .set("approvers", entitlement.approvers.clone())
        .always("approvals_required", entitlement.approvals_required)
        .set("default_ttl", seconds(entitlement.default_ttl))
        .set("max_ttl", seconds(entitlement.max_ttl))
        .set("approve_within", seconds(entitlement.approve_within))
        .set("justification_required", entitlement.justification_required)
        .set("ticket_pattern", entitlement.ticket_pattern.clone())
        .set("max_uses", entitlement.max_uses)
        .always("can_request", entitlement.can_request)
        .always("can_review", entitlement.can_review)
        .always("can_break_glass", entitlement.can_break_glass)
        .set("revision", entitlement.revision.clone())
        .done()
}

pub fn caller(caller: &v1::CallerIdentity) -> Value {
    Members::default()
        .set("subject", caller.subject.clone())
        .set("principals", caller.principals.clone())
        .set("delegate", caller.delegate.clone())
        .set("source", caller.source.clone())
        .set("expires_at", moment(caller.expires_at))
        .done()
}

pub fn explanation(explained: &v1::ExplainAccessResponse) -> Value {
    let standing = |standing: &v1::GrantStanding| {
        Members::default()
            .set("grant", standing.grant.clone())
            .always("covers", standing.covers)
            .set("why_not", standing.why_not.clone())
            .set("expires_at", moment(standing.expires_at))
            .done()
    };
    let offer = |offer: &v1::Offer| {
        Members::default()
            .set("entitlement", offer.entitlement.clone())
            .set("description", offer.description.clone())
            .always("eligible", offer.eligible)
            .set("approvals_required", offer.approvals_required)
            .set("command", offer.command.clone())
            .done()
    };
    Members::default()
        .always("allowed", explained.allowed)
        .set("reason", explained.reason.clone())
        .set("message", explained.message.clone())
        .set("grant", explained.grant.clone())
        .set("expires_at", moment(explained.expires_at))
        .set("standings", Value::Array(explained.standings.iter().map(standing).collect()))
        .set("lock", explained.lock.clone())
        .set("offers", Value::Array(explained.offers.iter().map(offer).collect()))
        .set("principals", explained.principals.clone())
        .done()
}

pub fn event(event: &v1::Event) -> Value {
    Members::default()
        .set("number", event.number)
        .set("time", moment(event.time))
        .set("type", event.r#type.clone())
        .set("actor", event.actor.clone())
        .set("subject", event.subject.clone())
        .set("request", event.request.clone())
        .set("grant", event.grant.clone())
        .set("lock", event.lock.clone())
        .set("entitlement", event.entitlement.clone())
        .set("reason", event.reason.clone())
        .set("break_glass", event.break_glass)
        .set("document", event.document.clone())
        .set("hash", event.hash.clone())
        .done()
}

/// An event as an export keeps it: exactly what its hash needs.
pub fn record(event: &v1::Event) -> Value {
    json!({"number": event.number, "hash": event.hash, "document": event.document})
}

/// CloudEvents 1.0, structured.
pub fn cloud_event(event: &v1::Event, source: &str) -> Value {
    let mut members = Members::default();
    members
        .always("specversion", "1.0")
        .always("id", event.number.to_string())
        .always("source", source)
        .always("type", format!("io.daypass.{}", event.r#type))
        .set("time", moment(event.time))
        .set("subject", event.subject.clone())
        .always("daypasshash", event.hash.clone());
    match serde_json::from_str::<Value>(&event.document) {
        Ok(data) => members.always("datacontenttype", "application/json").always("data", data),
        Err(_) => members.always("datacontenttype", "text/plain").always("data", event.document.clone()),
    };
    members.done()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_the_names_of_the_api() {
        let request = v1::AccessRequest {
            id: "r".into(),
            state: v1::RequestState::Pending.into(),
            kind: v1::RequestKind::Access.into(),
            duration: Some(prost_types::Duration { seconds: 5400, nanos: 0 }),
            granted_duration: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
            approve_by: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
            ..v1::AccessRequest::default()
        };
        let expected = json!({
            "id": "r", "kind": "ACCESS", "state": "PENDING", "duration": 5400, "granted_duration": 1.5,
            "approve_by": "1970-01-01T00:00:00Z",
        });
        assert_eq!(super::request(&request), expected);
        assert_eq!(explanation(&v1::ExplainAccessResponse::default()), json!({"allowed": false}));
    }

    #[test]
    fn a_cloud_event_has_the_document_as_its_data() {
        let event = v1::Event {
            number: 7,
            r#type: "grant.revoked".into(),
            document: "{\"a\":1.50}".into(),
            ..v1::Event::default()
        };
        let found = cloud_event(&event, "https://jit");
        assert_eq!(found["id"], "7");
        assert_eq!(found["type"], "io.daypass.grant.revoked");
        assert_eq!(found["data"].to_string(), "{\"a\":1.50}");
        let broken = v1::Event { document: "{".into(), ..event };
        assert_eq!(cloud_event(&broken, "x")["data"], "{");
    }
}
