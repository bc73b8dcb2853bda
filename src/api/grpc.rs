//! `daypass.v1.GrantService`: proto to the key contract and back.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use prost_types::value::Kind;
use tonic::{Request, Response, Status};

use super::identity::identity;
use super::v1;
use super::v1::grant_service_server::GrantService;
use super::v1::revoke_all_grants_request::Target;
use crate::grant::GrantId;
use crate::principal::Principal;
use crate::store::record::{Approvers, ConditionsRecord, GrantRecord, PermissionRecord, VERSION};
use crate::store::{Revoked, Store, StoreError, StoredGrant};

const DEFAULT_PAGE_SIZE: u32 = 100;
const MAX_PAGE_SIZE: u32 = 1000;

#[derive(Debug, Clone)]
pub struct GrantApi {
    store: Arc<Store>,
}

impl GrantApi {
    #[must_use]
    pub fn new(store: Arc<Store>) -> Self {
        Self { store }
    }
}

fn authenticated<T>(request: Request<T>) -> Result<T, Status> {
    identity(&request)?;
    Ok(request.into_inner())
}

#[tonic::async_trait]
impl GrantService for GrantApi {
    async fn create_grant(
        &self,
        request: Request<v1::CreateGrantRequest>,
    ) -> Result<Response<v1::Grant>, Status> {
        let v1::CreateGrantRequest { grant, ttl } = authenticated(request)?;
        let grant = grant.ok_or_else(|| Status::invalid_argument("`grant` is missing"))?;
        let ttl = ttl.and_then(|ttl| Duration::try_from(ttl).ok()).filter(|ttl| !ttl.is_zero()).ok_or_else(
            || Status::invalid_argument("`ttl` must be more than 0: a grant without an end is no grant"),
        )?;
        let id = if grant.id.is_empty() { new_id() } else { grant.id.clone() };
        let id: GrantId = id.parse().map_err(|error| invalid("id", &error))?;
        let record = record(grant, &id)?;
        let stored = self.store.create(id, record, ttl).await.map_err(|error| status(&error))?;
        tracing::info!(grant = %stored.id, subject = stored.record.subject, ends = %stored.expires_at, "grant created");
        Ok(Response::new(message(stored)))
    }

    async fn get_grant(&self, request: Request<v1::GetGrantRequest>) -> Result<Response<v1::Grant>, Status> {
        let v1::GetGrantRequest { id } = authenticated(request)?;
        let id = id.parse().map_err(|error| invalid("id", &error))?;
        let stored = self.store.get(id).await.map_err(|error| status(&error))?;
        Ok(Response::new(message(stored)))
    }

    async fn list_grants(
        &self,
        request: Request<v1::ListGrantsRequest>,
    ) -> Result<Response<v1::ListGrantsResponse>, Status> {
        let v1::ListGrantsRequest { subject, page_size, page_token, .. } = authenticated(request)?;
        let subject = (!subject.is_empty()).then(|| principal(&subject)).transpose()?;
        let page_size = match page_size {
            0 => DEFAULT_PAGE_SIZE,
            size => size.min(MAX_PAGE_SIZE),
        };
        let page_size = usize::try_from(page_size).unwrap_or(usize::MAX);
        let grants = self.store.list(subject.as_ref()).await.map_err(|error| status(&error))?;
        // A page begins behind the last id of the page before, so grants that come and go do not shift it.
        let mut rest = grants.into_iter().filter(|grant| grant.id.as_str() > page_token.as_str()).peekable();
        let page: Vec<v1::Grant> = rest.by_ref().take(page_size).map(message).collect();
        let next_page_token =
            if rest.peek().is_some() { page.last().map(|grant| grant.id.clone()) } else { None };
        Ok(Response::new(v1::ListGrantsResponse {
            grants: page,
            next_page_token: next_page_token.unwrap_or_default(),
        }))
    }

    async fn revoke_grant(
        &self,
        request: Request<v1::RevokeGrantRequest>,
    ) -> Result<Response<v1::RevokeGrantResponse>, Status> {
        let v1::RevokeGrantRequest { id, reason: _ } = authenticated(request)?;
        let id: GrantId = id.parse().map_err(|error| invalid("id", &error))?;
        let revoked = self.revoke(vec![id]).await?;
        if revoked.ids.is_empty() {
            return Err(status(&StoreError::NotFound));
        }
        Ok(Response::new(revoked_message(&revoked)))
    }

    async fn revoke_all_grants(
        &self,
        request: Request<v1::RevokeAllGrantsRequest>,
    ) -> Result<Response<v1::RevokeGrantResponse>, Status> {
        let v1::RevokeAllGrantsRequest { target, .. } = authenticated(request)?;
        let Some(Target::Subject(subject)) = target else {
            return Err(Status::unimplemented("only by subject yet"));
        };
        let subject = principal(&subject)?;
        let held = self.store.list(Some(&subject)).await.map_err(|error| status(&error))?;
        let revoked = self.revoke(held.into_iter().map(|grant| grant.id).collect()).await?;
        Ok(Response::new(revoked_message(&revoked)))
    }

    type WatchGrantStream = tokio_stream::Empty<Result<v1::Grant, Status>>;

    async fn watch_grant(
        &self,
        _request: Request<v1::WatchGrantRequest>,
    ) -> Result<Response<Self::WatchGrantStream>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn extend_grant(
        &self,
        _request: Request<v1::ExtendGrantRequest>,
    ) -> Result<Response<v1::ExtendGrantResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn relinquish_grant(
        &self,
        _request: Request<v1::RelinquishGrantRequest>,
    ) -> Result<Response<v1::RevokeGrantResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }
}

fn revoked_message(revoked: &Revoked) -> v1::RevokeGrantResponse {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    v1::RevokeGrantResponse {
        ids: revoked.ids.iter().map(ToString::to_string).collect(),
        replicas: count(revoked.replicas),
        replicated: count(revoked.replicated),
    }
}

impl GrantApi {
    async fn revoke(&self, ids: Vec<GrantId>) -> Result<Revoked, Status> {
        self.store.revoke(ids).await.map_err(|error| status(&error))
    }
}

/// Ordered by time, so that lists are too.
fn new_id() -> String {
    format!("g-{}", uuid::Uuid::now_v7().simple())
}

fn principal(text: &str) -> Result<Principal, Status> {
    text.parse().map_err(|error| invalid("subject", &error))
}

fn invalid(field: &str, error: &dyn std::error::Error) -> Status {
    Status::invalid_argument(format!("`{field}`: {error}"))
}

/// The one place where store errors become status codes. Causes go to the log, not to the caller.
fn status(error: &StoreError) -> Status {
    match error {
        StoreError::NotFound => Status::not_found(error.to_string()),
        StoreError::AlreadyExists => Status::already_exists(error.to_string()),
        StoreError::Full(_) => Status::resource_exhausted(error.to_string()),
        StoreError::NotNow(_) => {
            tracing::error!("grant store: {error}");
            Status::unavailable(format!("{error}; nothing was written"))
        }
        StoreError::Refused(_) => {
            tracing::error!("grant store: {error}");
            Status::failed_precondition(format!("{error}; nothing was written"))
        }
        StoreError::Invalid(refusal) => Status::invalid_argument(format!("not a grant: {}", refusal.code())),
        StoreError::Unavailable(source) => {
            tracing::error!("grant store: {source}");
            Status::unavailable("the grant store cannot be reached; a write may or may not have happened")
        }
    }
}

fn record(grant: v1::Grant, id: &GrantId) -> Result<GrantRecord, Status> {
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
        id: Some(id.to_string()),
        subject,
        permissions,
        not_before: not_before.map(|moment| timestamp("not_before", moment)).transpose()?,
        expires_at: expires_at.map(|moment| timestamp("expires_at", moment)).transpose()?,
        max_uses: NonZeroU64::new(max_uses),
        conditions,
        roles,
        attributes: attributes.map(members).transpose()?,
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

fn message(stored: StoredGrant) -> v1::Grant {
    let StoredGrant { record, id, expires_at } = stored;
    let approved_by = record.approved_by.to_vec();
    let permission = |permission: PermissionRecord| v1::Permission {
        hosts: permission.hosts.unwrap_or_default(),
        methods: permission.methods.unwrap_or_default(),
        paths: permission.paths.unwrap_or_default(),
        grpc_methods: permission.grpc_methods.unwrap_or_default(),
    };
    v1::Grant {
        id: id.to_string(),
        subject: record.subject,
        permissions: record.permissions.into_iter().map(permission).collect(),
        not_before: record.not_before.map(moment),
        expires_at: Some(moment(expires_at)),
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
        ..v1::Grant::default()
    }
}

fn timestamp(field: &str, moment: prost_types::Timestamp) -> Result<Timestamp, Status> {
    Timestamp::new(moment.seconds, moment.nanos).map_err(|_| {
        Status::invalid_argument(format!("`{field}` is not a moment between the years -9999 and 9999"))
    })
}

fn moment(timestamp: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: timestamp.as_second(), nanos: timestamp.subsec_nanosecond() }
}

fn members(found: prost_types::Struct) -> Result<serde_json::Map<String, serde_json::Value>, Status> {
    found.fields.into_iter().map(|(name, value)| Ok((name, json_value(value)?))).collect()
}

fn json_value(value: prost_types::Value) -> Result<serde_json::Value, Status> {
    Ok(match value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(value)) => value.into(),
        Some(Kind::NumberValue(value)) => {
            serde_json::Number::from_f64(value).map(serde_json::Value::Number).ok_or_else(|| {
                Status::invalid_argument("`attributes` holds a number that JSON has no form for")
            })?
        }
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::ListValue(list)) => {
            serde_json::Value::Array(list.values.into_iter().map(json_value).collect::<Result<_, _>>()?)
        }
        Some(Kind::StructValue(found)) => serde_json::Value::Object(members(found)?),
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
