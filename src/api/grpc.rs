//! The services of `daypass.v1`: proto to the desk and back. Decides nothing.

mod access;
mod convert;
mod events;
mod grants;
mod locks;
mod requests;
mod status;
mod watch;

use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tonic::service::Routes;
use tonic::{Request, Status};

use super::identity::identity;
use super::v1::access_service_server::AccessServiceServer;
use super::v1::event_service_server::EventServiceServer;
use super::v1::grant_service_server::GrantServiceServer;
use super::v1::lock_service_server::LockServiceServer;
use super::v1::request_service_server::RequestServiceServer;
use crate::desk::Desk;
use crate::principal::{Caller, Identity};
use crate::standing::{Asked, Standing};

/// Streams that may be open at once in all: each looks again at what it watches whenever anything happens.
const MAX_WATCHES: usize = 1000;
const DEFAULT_PAGE_SIZE: u32 = 100;
const MAX_PAGE_SIZE: u32 = 1000;

/// How a caller stands towards a request, by the very rules of a check.
pub type Explain = Arc<dyn Fn(Caller, Asked) -> Pin<Box<dyn Future<Output = Standing> + Send>> + Send + Sync>;

/// All services over one desk. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    desk: Arc<Desk>,
    explain: Explain,
    watches: Arc<Semaphore>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("desk", &self.desk).finish_non_exhaustive()
    }
}

impl Api {
    #[must_use]
    pub fn new(desk: Arc<Desk>, explain: Explain) -> Self {
        Self { desk, explain, watches: Arc::new(Semaphore::new(MAX_WATCHES)) }
    }

    /// All of them, for messages up to so many bytes.
    #[must_use]
    pub fn services(self, max_message_bytes: usize) -> Routes {
        let grants = GrantServiceServer::new(self.clone()).max_decoding_message_size(max_message_bytes);
        let requests = RequestServiceServer::new(self.clone()).max_decoding_message_size(max_message_bytes);
        let access = AccessServiceServer::new(self.clone()).max_decoding_message_size(max_message_bytes);
        let locks = LockServiceServer::new(self.clone()).max_decoding_message_size(max_message_bytes);
        let events = EventServiceServer::new(self).max_decoding_message_size(max_message_bytes);
        Routes::new(grants).add_service(requests).add_service(access).add_service(locks).add_service(events)
    }
}

/// Who calls, and with what.
fn parts<T>(request: Request<T>) -> Result<(Identity, T), Status> {
    Ok((identity(&request)?, request.into_inner()))
}

fn page_size(asked: u32) -> usize {
    let size = match asked {
        0 => DEFAULT_PAGE_SIZE,
        size => size.min(MAX_PAGE_SIZE),
    };
    usize::try_from(size).unwrap_or(usize::MAX)
}
