//! `daypass.v1.GrantService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert::{self, duration, optional};
use super::watch::{View, Watched};
use super::{Api, page_size, parts, requests};
use crate::api::v1;
use crate::api::v1::grant_service_server::GrantService;
use crate::api::v1::revoke_all_grants_request::Target as Wanted;
use crate::desk::{Ending, Extend, Target};
use crate::store::Revoked;

#[tonic::async_trait]
impl GrantService for Api {
    async fn create_grant(
        &self,
        request: Request<v1::CreateGrantRequest>,
    ) -> Result<Response<v1::Grant>, Status> {
        let (who, v1::CreateGrantRequest { grant, ttl }) = parts(request)?;
        let grant = grant.ok_or_else(|| Status::invalid_argument("`grant` is missing"))?;
        let ttl = duration("ttl", ttl)?.ok_or_else(|| {
            Status::invalid_argument("`ttl` must be more than 0: a grant without an end is no grant")
        })?;
        let id = optional(&grant.id).map(convert::id).transpose()?;
        let record = convert::record(grant)?;
        Ok(Response::new(convert::grant(self.desk.give(&who, id, record, ttl).await?)))
    }

    async fn get_grant(&self, request: Request<v1::GetGrantRequest>) -> Result<Response<v1::Grant>, Status> {
        let (who, v1::GetGrantRequest { id }) = parts(request)?;
        Ok(Response::new(convert::grant(self.desk.grant(&who, &id).await?.grant)))
    }

    async fn list_grants(
        &self,
        request: Request<v1::ListGrantsRequest>,
    ) -> Result<Response<v1::ListGrantsResponse>, Status> {
        let (who, asked) = parts(request)?;
        let v1::ListGrantsRequest { subject, page_size: size, page_token, entitlement, include_ended } =
            asked;
        let subject = optional(&subject).map(convert::principal).transpose()?;
        let grants = self.desk.grants(&who, subject.as_ref(), &entitlement, include_ended).await?;
        let (page, next_page_token) = convert::page(grants, |grant| &grant.id, page_size(size), &page_token);
        let grants = page.into_iter().map(convert::grant).collect();
        Ok(Response::new(v1::ListGrantsResponse { grants, next_page_token }))
    }

    type WatchGrantStream = Watched<v1::Grant>;

    async fn watch_grant(
        &self,
        request: Request<v1::WatchGrantRequest>,
    ) -> Result<Response<Self::WatchGrantStream>, Status> {
        let (who, v1::WatchGrantRequest { id }) = parts(request)?;
        self.desk.grant(&who, &id).await?;
        let (desk, watcher) = (Arc::clone(&self.desk), who.clone());
        let look = move || {
            let (desk, who, id) = (Arc::clone(&desk), watcher.clone(), id.clone());
            async move {
                let seen = desk.grant(&who, &id).await?;
                let is_final = !seen.grant.standing.is_open();
                Ok(View { item: convert::grant(seen.grant), number: seen.number, is_final })
            }
        };
        Ok(Response::new(self.watch(&who, look)?))
    }

    async fn extend_grant(
        &self,
        request: Request<v1::ExtendGrantRequest>,
    ) -> Result<Response<v1::ExtendGrantResponse>, Status> {
        let (who, asked) = parts(request)?;
        let v1::ExtendGrantRequest { id, duration: longer, justification, ticket, request_id } = asked;
        let duration = duration("duration", longer)?
            .ok_or_else(|| Status::invalid_argument("`duration` is missing: how much longer"))?;
        let call = optional(&request_id).map(str::to_owned);
        let extended = self.desk.extend(&who, Extend { id, duration, justification, ticket, call }).await?;
        Ok(Response::new(v1::ExtendGrantResponse {
            grant: Some(convert::grant(extended.grant)),
            request: extended.request.map(requests::message),
        }))
    }

    async fn revoke_grant(
        &self,
        request: Request<v1::RevokeGrantRequest>,
    ) -> Result<Response<v1::RevokeGrantResponse>, Status> {
        let (who, v1::RevokeGrantRequest { id, reason }) = parts(request)?;
        Ok(Response::new(revoked(&self.desk.end(&who, &id, Ending::Revoked, &reason).await?)))
    }

    async fn relinquish_grant(
        &self,
        request: Request<v1::RelinquishGrantRequest>,
    ) -> Result<Response<v1::RevokeGrantResponse>, Status> {
        let (who, v1::RelinquishGrantRequest { id }) = parts(request)?;
        Ok(Response::new(revoked(&self.desk.end(&who, &id, Ending::Relinquished, "").await?)))
    }

    async fn revoke_all_grants(
        &self,
        request: Request<v1::RevokeAllGrantsRequest>,
    ) -> Result<Response<v1::RevokeGrantResponse>, Status> {
        let (who, v1::RevokeAllGrantsRequest { target, reason, validate_only }) = parts(request)?;
        let missing = || Status::invalid_argument("say which: `subject`, `entitlement` or `everything`");
        let target = match target.ok_or_else(missing)? {
            Wanted::Subject(subject) => Target::Principal(convert::principal(&subject)?),
            Wanted::Entitlement(name) if !name.is_empty() => Target::Entitlement(name),
            Wanted::Everything(true) => Target::Everything,
            Wanted::Entitlement(_) | Wanted::Everything(false) => return Err(missing()),
        };
        Ok(Response::new(revoked(&self.desk.end_all(&who, &target, &reason, validate_only).await?)))
    }
}

fn revoked(revoked: &Revoked) -> v1::RevokeGrantResponse {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    v1::RevokeGrantResponse {
        ids: revoked.ids.iter().map(ToString::to_string).collect(),
        replicas: count(revoked.replicas),
        replicated: count(revoked.replicated),
    }
}
