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
use std::time::Duration;

use tonic::service::Routes;
use tonic::{Request, Status};

use super::identity::identity;
use super::slots::Slots;
use super::v1::access_service_server::AccessServiceServer;
use super::v1::event_service_server::EventServiceServer;
use super::v1::grant_service_server::GrantServiceServer;
use super::v1::lock_service_server::LockServiceServer;
use super::v1::request_service_server::RequestServiceServer;
use crate::desk::Desk;
use crate::principal::{Caller, Identity, Principal};
use crate::standing::{Asked, Standing};

/// Streams that may be open at once in all: each looks again at what it watches whenever anything happens.
const MAX_WATCHES: usize = 1000;
/// Of these, those of one caller.
const MAX_WATCHES_OF_ONE: usize = 20;
/// How long a stream lives at most: what a client has forgotten ends, and others open it again.
pub const MAX_STREAM_AGE: Duration = Duration::from_secs(3600);
/// Bytes of one message that is received. Some sixteen of the largest grants there can be.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;
const DEFAULT_PAGE_SIZE: u32 = 100;
const MAX_PAGE_SIZE: u32 = 1000;

/// How a caller stands towards a request, by the very rules of a check.
pub type Explain = Arc<dyn Fn(Caller, Asked) -> Pin<Box<dyn Future<Output = Standing> + Send>> + Send + Sync>;

/// All services over one desk. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    desk: Arc<Desk>,
    explain: Explain,
    watches: Arc<Slots<Principal>>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("desk", &self.desk).finish_non_exhaustive()
    }
}

impl Api {
    #[must_use]
    pub fn new(desk: Arc<Desk>, explain: Explain) -> Self {
        Self { desk, explain, watches: Slots::new(MAX_WATCHES, MAX_WATCHES_OF_ONE) }
    }

    #[must_use]
    pub fn services(self) -> Routes {
        let grants = GrantServiceServer::new(self.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let requests = RequestServiceServer::new(self.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let access = AccessServiceServer::new(self.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let locks = LockServiceServer::new(self.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let events = EventServiceServer::new(self).max_decoding_message_size(MAX_MESSAGE_BYTES);
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
