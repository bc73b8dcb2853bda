//! Streams that show something again whenever it changes.
//!
//! A stream has no task of its own: it moves when its client reads, and is gone when the client is. It ends with what
//! established its caller, and when it is old.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream};
use jiff::Timestamp;
use tokio::time::Instant;
use tonic::Status;

use super::{Api, MAX_STREAM_AGE};
use crate::api::slots::{Full, Slot};
use crate::principal::{Identity, Principal};

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
        let permit = self.permit(who)?;
        let term = Term::of(who);
        let desk = Arc::clone(&self.desk);
        let held = Arc::new((permit, look, desk));
        let stream = stream::try_unfold(State::Begins, move |state| {
            let held = Arc::clone(&held);
            bounded(term, async move {
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

    pub(super) fn permit(&self, who: &Identity) -> Result<Slot<Principal>, Status> {
        self.watches.take(&who.subject).map_err(|full| match full {
            Full::Own => Status::resource_exhausted("this caller has too many streams open"),
            Full::All => Status::resource_exhausted("too many streams are open at this server"),
        })
    }
}

/// How long a stream may go on.
#[derive(Debug, Clone, Copy)]
pub struct Term {
    credentials: Option<Timestamp>,
    age: Instant,
}

impl Term {
    pub fn of(who: &Identity) -> Self {
        Self { credentials: who.expires_at, age: Instant::now() + MAX_STREAM_AGE }
    }

    /// What is left, and why it ends then.
    fn left(self) -> (Duration, Status) {
        let age = self.age.saturating_duration_since(Instant::now());
        let credentials = self
            .credentials
            .map(|end| Duration::try_from(end.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO));
        match credentials {
            Some(left) if left <= age => (left, Status::unauthenticated("the credentials have run out")),
            _ => (age, Status::unavailable("the stream is old; open it again")),
        }
    }
}

/// `work`, unless the stream's time is over before it is done.
pub async fn bounded<T>(term: Term, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let (left, over) = term.left();
    // Work that is ready at once would be done, however late.
    if left.is_zero() {
        return Err(over);
    }
    tokio::time::timeout(left, work).await.map_err(|_| over)?
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn end(term: Term) -> Option<tonic::Code> {
        bounded(term, async { Ok(()) }).await.err().map(|status| status.code())
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_shown_after_the_end() {
        let term = |seconds: i64| Term {
            credentials: Some(Timestamp::now() + jiff::SignedDuration::from_secs(seconds)),
            age: Instant::now() + MAX_STREAM_AGE,
        };
        assert_eq!(end(term(60)).await, None);
        for over in [0, -1, -60] {
            assert_eq!(end(term(over)).await, Some(tonic::Code::Unauthenticated));
        }
        let endless = Term { credentials: None, ..term(0) };
        tokio::time::advance(Duration::from_secs(3599)).await;
        assert_eq!(end(endless).await, None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(end(endless).await, Some(tonic::Code::Unavailable));
        let waits = bounded(
            Term { age: Instant::now() + MAX_STREAM_AGE, ..endless },
            std::future::pending::<Result<(), _>>(),
        );
        assert_eq!(waits.await.unwrap_err().code(), tonic::Code::Unavailable);
    }
}
