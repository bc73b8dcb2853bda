//! Streams that show something again whenever it changes.
//!
//! A stream has no task of its own: it moves when its client reads, and is gone when the client is. It ends with what
//! established its caller.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream};
use jiff::Timestamp;
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;

use super::Api;
use crate::principal::Identity;

pub type Watched<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Something as it was at a moment, and whether it will never be otherwise.
pub struct View<T> {
    pub item: T,
    /// Of the last event before.
    pub number: u64,
    pub is_final: bool,
}

enum State<T> {
    Begins,
    Shown { item: T, number: u64 },
    Ends,
}

impl Api {
    /// Shows what `look` finds, again whenever it is different, until it is final.
    pub(super) fn watch<T, F>(
        &self,
        who: &Identity,
        look: impl Fn() -> F + Send + Sync + 'static,
    ) -> Result<Watched<T>, Status>
    where
        T: Clone + PartialEq + Send + Sync + 'static,
        F: Future<Output = Result<View<T>, Status>> + Send,
    {
        let permit = self.permit()?;
        let until = who.expires_at;
        let desk = Arc::clone(&self.desk);
        let held = Arc::new((permit, look, desk));
        let stream = stream::try_unfold(State::Begins, move |state| {
            let held = Arc::clone(&held);
            bounded(until, async move {
                let (_permit, look, desk) = &*held;
                let (before, mut number) = match state {
                    State::Begins => (None, None),
                    State::Shown { item, number } => (Some(item), Some(number)),
                    State::Ends => return Ok(None),
                };
                loop {
                    if let Some(number) = number {
                        desk.moved(number).await;
                    }
                    let view = look().await?;
                    number = Some(view.number);
                    let is_news = before.as_ref() != Some(&view.item);
                    if is_news || view.is_final {
                        let next = if view.is_final {
                            State::Ends
                        } else {
                            State::Shown { item: view.item.clone(), number: view.number }
                        };
                        return Ok(Some((view.item, next)));
                    }
                }
            })
        });
        Ok(Box::pin(stream))
    }

    pub(super) fn permit(&self) -> Result<OwnedSemaphorePermit, Status> {
        let full = |_| Status::resource_exhausted("too many streams are open at this server");
        Arc::clone(&self.watches).try_acquire_owned().map_err(full)
    }
}

/// `work`, unless the caller's identity runs out before it is done.
pub async fn bounded<T>(
    until: Option<Timestamp>,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let Some(until) = until else { return work.await };
    let left = Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO);
    let ended = |_| Status::unauthenticated("the credentials have run out");
    tokio::time::timeout(left, work).await.map_err(ended)?
}
