//! `daypass.v1.LockService`.

use tonic::{Request, Response, Status};

use super::convert::{self, duration, moment, optional};
use super::{Api, page_size, parts};
use crate::api::v1;
use crate::api::v1::lock::Target as Wanted;
use crate::api::v1::lock_service_server::LockService;
use crate::desk::{SeenLock, Target};

#[tonic::async_trait]
impl LockService for Api {
    async fn create_lock(
        &self,
        request: Request<v1::CreateLockRequest>,
    ) -> Result<Response<v1::Lock>, Status> {
        let (who, v1::CreateLockRequest { lock, ttl }) = parts(request)?;
        let lock = lock.ok_or_else(|| Status::invalid_argument("`lock` is missing"))?;
        let ttl = duration("ttl", ttl)?
            .ok_or_else(|| Status::invalid_argument("`ttl` is missing: a lock says when it ends"))?;
        let missing =
            || Status::invalid_argument("say what it is for: `principal`, `entitlement` or `everything`");
        let target = match lock.target.ok_or_else(missing)? {
            Wanted::Principal(principal) => Target::Principal(convert::principal(&principal)?),
            Wanted::Entitlement(name) if !name.is_empty() => Target::Entitlement(name),
            Wanted::Everything(true) => Target::Everything,
            Wanted::Entitlement(_) | Wanted::Everything(false) => return Err(missing()),
        };
        let id = optional(&lock.id).map(convert::id).transpose()?;
        let lock = self.desk.lock(&who, id, &target, &lock.message, ttl).await?;
        Ok(Response::new(message(lock)))
    }

    async fn list_locks(
        &self,
        request: Request<v1::ListLocksRequest>,
    ) -> Result<Response<v1::ListLocksResponse>, Status> {
        let (who, v1::ListLocksRequest { page_size: size, page_token }) = parts(request)?;
        let locks = self.desk.locks(&who).await?;
        let (page, next) = convert::page(locks, |lock| &lock.id, page_size(size), &page_token);
        let locks = page.into_iter().map(message).collect();
        Ok(Response::new(v1::ListLocksResponse { locks, next_page_token: next }))
    }

    async fn delete_lock(
        &self,
        request: Request<v1::DeleteLockRequest>,
    ) -> Result<Response<v1::Lock>, Status> {
        let (who, v1::DeleteLockRequest { id }) = parts(request)?;
        Ok(Response::new(message(self.desk.unlock(&who, &id).await?)))
    }
}

fn message(SeenLock { id, record }: SeenLock) -> v1::Lock {
    let target = match (record.principal, record.entitlement) {
        (Some(principal), _) => Wanted::Principal(principal),
        (None, Some(entitlement)) => Wanted::Entitlement(entitlement),
        (None, None) => Wanted::Everything(true),
    };
    v1::Lock {
        id,
        target: Some(target),
        message: record.message,
        expires_at: record.expires_at.map(moment),
        created_by: record.created_by.unwrap_or_default(),
        create_time: record.created_at.map(moment),
    }
}
