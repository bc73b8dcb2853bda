//! Proto to the types of the desk and back. Pure.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::time::Duration;

use jiff::Timestamp;
use prost_types::value::Kind;
use tonic::Status;

use crate::api::v1;
use crate::desk::model::{Registered, Standing};
use crate::grant::GrantId;
use crate::permission::PermissionLists;
use crate::principal::Principal;
use crate::store::GrantRecord;
use crate::store::record::{Approvers, ConditionsRecord, PermissionRecord, VERSION};

/// Deepest nesting of `attributes`: more than anybody writes, less than a stack holds.
const MAX_DEPTH: u32 = 64;

/// Text, if there is any.
pub fn optional(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

pub fn id(text: &str) -> Result<GrantId, Status> {
    text.parse().map_err(|error| invalid("id", &error))
}

pub fn principal(text: &str) -> Result<Principal, Status> {
    text.parse().map_err(|error| invalid("subject", &error))
}

pub fn invalid(field: &str, error: &dyn std::error::Error) -> Status {
    Status::invalid_argument(format!("`{field}`: {error}"))
}

/// More than nothing, if it is given.
pub fn duration(field: &str, given: Option<prost_types::Duration>) -> Result<Option<Duration>, Status> {
    let Some(given) = given else { return Ok(None) };
    let duration = Duration::try_from(given).ok().filter(|duration| !duration.is_zero());
    duration.map(Some).ok_or_else(|| Status::invalid_argument(format!("`{field}` must be more than 0")))
}

pub fn proto_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 })
}

/// One page of a list that is ordered by id. It begins behind the last id of the page before, so what comes and goes
/// does not shift it. Also where the next one begins.
pub fn page<T>(items: Vec<T>, id: impl Fn(&T) -> &String, size: usize, token: &str) -> (Vec<T>, String) {
    let mut rest = items.into_iter().filter(|item| id(item).as_str() > token).peekable();
    let page: Vec<T> = rest.by_ref().take(size).collect();
    let next = if rest.peek().is_some() { page.last().map(|last| id(last).clone()) } else { None };
    (page, next.unwrap_or_default())
}

/// What a caller wants given. The id is the server's matter.
pub fn record(grant: v1::Grant) -> Result<GrantRecord, Status> {
    let v1::Grant {
        id: _,
        subject,
        permissions,
        not_before,
        expires_at,
        max_uses,
        conditions,
        roles,
        attributes,
        entitlement,
        request,
        approved_by,
        justification,
        ticket,
        break_glass,
        ..
    } = grant;
    principal(&subject)?;
    let permissions: Vec<PermissionRecord> = permissions.into_iter().map(permission_record).collect();
    for permission in &permissions {
        check_permission(permission)?;
    }
    let conditions = conditions.map(|conditions| ConditionsRecord { source_cidrs: conditions.source_cidrs });
    if conditions.as_ref().is_some_and(|conditions| conditions.source_cidrs.is_empty()) {
        return Err(Status::invalid_argument(
            "`conditions` says nothing; leave it out or name `source_cidrs`",
        ));
    }
    for range in conditions.iter().flat_map(|conditions| &conditions.source_cidrs) {
        range
            .parse::<crate::permission::Cidr>()
            .map_err(|error| invalid("conditions.source_cidrs", &error))?;
    }
    let text = |text: String| (!text.is_empty()).then_some(text);
    Ok(GrantRecord {
        v: VERSION,
        id: None,
        subject,
        permissions,
        not_before: not_before.map(|moment| timestamp("not_before", moment)).transpose()?,
        expires_at: expires_at.map(|moment| timestamp("expires_at", moment)).transpose()?,
        max_uses: NonZeroU64::new(max_uses),
        conditions,
        roles,
        attributes: attributes.map(|found| members(found, MAX_DEPTH)).transpose()?,
        entitlement: text(entitlement),
        request: text(request),
        approved_by: Approvers::Many(approved_by),
        justification: text(justification),
        ticket: text(ticket),
        break_glass,
    })
}

fn permission_record(permission: v1::Permission) -> PermissionRecord {
    let given = |list: Vec<String>| (!list.is_empty()).then_some(list);
    let v1::Permission { hosts, methods, paths, grpc_methods } = permission;
    PermissionRecord {
        hosts: given(hosts),
        methods: given(methods),
        paths: given(paths),
        grpc_methods: given(grpc_methods),
    }
}

/// The store would refuse it too, with a code; here the caller learns which entry is wrong.
fn check_permission(permission: &PermissionRecord) -> Result<(), Status> {
    let PermissionRecord { hosts, methods, paths, grpc_methods } = permission.clone();
    let lists = crate::permission::PermissionLists { hosts, methods, paths, grpc_methods };
    crate::permission::Permission::new(&lists).map(|_| ()).map_err(|error| invalid("permissions", &error))
}

/// A grant as the API shows it.
pub fn grant(grant: Registered) -> v1::Grant {
    let Registered {
        id, standing, record, created, expires, extensions, ended_by, end_reason, starts, ..
    } = grant;
    let approved_by = record.approved_by.to_vec();
    let state = match standing {
        Standing::Scheduled => v1::GrantState::Scheduled,
        Standing::Active => v1::GrantState::Active,
        Standing::Ended => v1::GrantState::Ended,
        Standing::Revoked => v1::GrantState::Revoked,
        Standing::Relinquished => v1::GrantState::Relinquished,
        Standing::Cancelled => v1::GrantState::Cancelled,
    };
    let not_before = record.not_before.or((standing == Standing::Scheduled).then_some(starts));
    v1::Grant {
        id,
        subject: record.subject,
        permissions: record.permissions.into_iter().map(permission).collect(),
        not_before: not_before.map(moment),
        expires_at: Some(moment(expires)),
        max_uses: record.max_uses.map_or(0, NonZeroU64::get),
        conditions: record.conditions.map(|found| v1::Conditions { source_cidrs: found.source_cidrs }),
        roles: record.roles,
        attributes: record.attributes.map(|found| prost_types::Struct {
            fields: found.into_iter().map(|(name, value)| (name, proto_value(value))).collect(),
        }),
        entitlement: record.entitlement.unwrap_or_default(),
        request: record.request.unwrap_or_default(),
        approved_by,
        justification: record.justification.unwrap_or_default(),
        ticket: record.ticket.unwrap_or_default(),
        break_glass: record.break_glass,
        state: state.into(),
        extensions,
        ended_by: ended_by.unwrap_or_default(),
        end_reason,
        create_time: Some(moment(created)),
    }
}

fn permission(permission: PermissionRecord) -> v1::Permission {
    let PermissionRecord { hosts, methods, paths, grpc_methods } = permission;
    permission_of(PermissionLists { hosts, methods, paths, grpc_methods })
}

pub fn permission_of(permission: PermissionLists) -> v1::Permission {
    v1::Permission {
        hosts: permission.hosts.unwrap_or_default(),
        methods: permission.methods.unwrap_or_default(),
        paths: permission.paths.unwrap_or_default(),
        grpc_methods: permission.grpc_methods.unwrap_or_default(),
    }
}

pub fn timestamp(field: &str, moment: prost_types::Timestamp) -> Result<Timestamp, Status> {
    Timestamp::new(moment.seconds, moment.nanos).map_err(|_| {
        Status::invalid_argument(format!("`{field}` is not a moment between the years -9999 and 9999"))
    })
}

pub fn moment(timestamp: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: timestamp.as_second(), nanos: timestamp.subsec_nanosecond() }
}

fn members(
    found: prost_types::Struct,
    depth: u32,
) -> Result<serde_json::Map<String, serde_json::Value>, Status> {
    found.fields.into_iter().map(|(name, value)| Ok((name, json_value(value, depth)?))).collect()
}

fn json_value(value: prost_types::Value, depth: u32) -> Result<serde_json::Value, Status> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(Status::invalid_argument("`attributes` is nested too deep"));
    };
    Ok(match value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(value)) => value.into(),
        Some(Kind::NumberValue(value)) => {
            serde_json::Number::from_f64(value).map(serde_json::Value::Number).ok_or_else(|| {
                Status::invalid_argument("`attributes` holds a number that JSON has no form for")
            })?
        }
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::ListValue(list)) => serde_json::Value::Array(
            list.values.into_iter().map(|item| json_value(item, depth)).collect::<Result<_, _>>()?,
        ),
        Some(Kind::StructValue(found)) => serde_json::Value::Object(members(found, depth)?),
    })
}

fn proto_value(value: serde_json::Value) -> prost_types::Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(value),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        serde_json::Value::String(text) => Kind::StringValue(text),
        serde_json::Value::Array(items) => {
            Kind::ListValue(prost_types::ListValue { values: items.into_iter().map(proto_value).collect() })
        }
        serde_json::Value::Object(found) => {
            let fields: BTreeMap<_, _> =
                found.into_iter().map(|(name, value)| (name, proto_value(value))).collect();
            Kind::StructValue(prost_types::Struct { fields })
        }
    };
    prost_types::Value { kind: Some(kind) }
}
