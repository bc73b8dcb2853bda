//! What one call of the API may hold, and for how long: its place among its caller's calls, bytes of its body, and its
//! answer. Everything is given back in time, whatever the client does or leaves undone.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tonic::Status;

use crate::api::slots::{Slot, Slots};
use crate::api::{MAX_MESSAGE_BYTES, MAX_STREAM_AGE, Refusal};
use crate::principal::{Identity, Principal};

/// Calls under way at once, streams among them. Each holds a header of up to 32 KiB.
const MAX_CALLS: usize = 2048;
/// Of these, those of one caller: its streams, and a page that loads.
const MAX_CALLS_OF_ONE: usize = 64;
/// Bytes of all bodies that are held at once: twice what one caller can have sent.
const MAX_HELD_BYTES: usize = 128 << 20;
/// Of one body: the largest message and what frames it.
const MAX_BODY_BYTES: usize = MAX_MESSAGE_BYTES + 1024;
/// Of a body from somebody who need not be anybody: the name of a service.
const MAX_STRANGERS_BODY_BYTES: usize = 4096;
/// For a body of this size over the slowest line that is of use.
const BODY_LIMIT: Duration = Duration::from_secs(30);
/// For the answer to somebody who need not be anybody.
const STRANGERS_ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// For the answer to credentials that are about to end.
const LEAST_ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Streams end by themselves, and say why, if their client reads. This much later they are taken away.
const GRACE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Who {
    Caller(Principal),
    Stranger(IpAddr),
}

/// All calls of a listener.
pub struct Calls {
    slots: Arc<Slots<Who>>,
    bytes: Arc<Semaphore>,
}

impl Calls {
    #[must_use]
    pub fn new() -> Self {
        let bytes = Arc::new(Semaphore::new(MAX_HELD_BYTES));
        Self { slots: Slots::new(MAX_CALLS, MAX_CALLS_OF_ONE), bytes }
    }

    /// # Errors
    /// Too many are under way.
    pub fn begin(&self, identity: Option<&Identity>, network: IpAddr) -> Result<Call, Refusal> {
        let who = identity.map_or(Who::Stranger(network), |identity| Who::Caller(identity.subject.clone()));
        let slot = self.slots.take(&who).map_err(|_| Refusal::Crowded)?;
        let (max_body_bytes, answer_limit) = match identity {
            None => (MAX_STRANGERS_BODY_BYTES, STRANGERS_ANSWER_LIMIT),
            Some(identity) => (MAX_BODY_BYTES, answer_limit(identity, Timestamp::now())),
        };
        let held = Held { _slot: slot, pool: Arc::clone(&self.bytes), bytes: Mutex::default() };
        Ok(Call { held: Arc::new(held), max_body_bytes, answer_by: Instant::now() + answer_limit })
    }
}

/// To the end of the credentials or of the oldest stream, and a little more.
fn answer_limit(identity: &Identity, now: Timestamp) -> Duration {
    let left = identity.expires_at.map(|end| Duration::try_from(end.duration_since(now)).unwrap_or_default());
    let left = left.map_or(MAX_STREAM_AGE, |left| left.min(MAX_STREAM_AGE));
    (left + GRACE).max(LEAST_ANSWER_LIMIT)
}

/// Given back with the last of what shares it: the body, the call, the answer.
struct Held {
    _slot: Slot<Who>,
    pool: Arc<Semaphore>,
    bytes: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Held {
    fn add(&self, bytes: usize) -> Result<(), Status> {
        let full = || Status::resource_exhausted("too many bodies are arriving at this server; try again");
        let wanted = u32::try_from(bytes).map_err(|_| full())?;
        let permit = Arc::clone(&self.pool).try_acquire_many_owned(wanted).map_err(|_| full())?;
        let mut held = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        match held.as_mut() {
            Some(held) => held.merge(permit),
            None => *held = Some(permit),
        }
        Ok(())
    }

    /// What the handler made of the body is its own by now.
    fn give_bytes_back(&self) {
        drop(self.bytes.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

pub struct Call {
    held: Arc<Held>,
    max_body_bytes: usize,
    answer_by: Instant,
}

impl Call {
    /// The body of the request, within its limits.
    pub fn receive(&self, body: Body) -> Body {
        if body.is_end_stream() {
            return body;
        }
        Body::new(Incoming {
            body,
            held: Arc::clone(&self.held),
            left: self.max_body_bytes,
            deadline: Box::pin(sleep(BODY_LIMIT)),
        })
    }

    /// The body of the answer, which is taken away when its time is over.
    pub fn send(self, body: Body) -> Body {
        self.held.give_bytes_back();
        if body.is_end_stream() {
            return body;
        }
        let state = Arc::new(Mutex::new(State { inside: Some((body, self.held)), waker: None }));
        let timer = tokio::spawn(take_away(Arc::clone(&state), self.answer_by)).abort_handle();
        Body::new(Outgoing { state, timer })
    }
}

struct Incoming {
    body: Body,
    held: Arc<Held>,
    left: usize,
    deadline: Pin<Box<Sleep>>,
}

impl HttpBody for Incoming {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Poll::Ready(next) = Pin::new(&mut self.body).poll_frame(cx) else {
            let is_late = self.deadline.as_mut().poll(cx).is_ready();
            let late = || Status::deadline_exceeded("the body of the call did not arrive in time");
            return if is_late { Poll::Ready(Some(Err(late().into()))) } else { Poll::Pending };
        };
        if let Some(Ok(frame)) = &next
            && let Some(data) = frame.data_ref()
        {
            let Some(left) = self.left.checked_sub(data.len()) else {
                let large = Status::out_of_range("the body of the call is too large");
                return Poll::Ready(Some(Err(large.into())));
            };
            self.left = left;
            if let Err(full) = self.held.add(data.len()) {
                return Poll::Ready(Some(Err(full.into())));
            }
        }
        Poll::Ready(next.map(|next| next.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

struct State {
    /// None: its time was over.
    inside: Option<(Body, Arc<Held>)>,
    /// Of who waits for the next of it.
    waker: Option<Waker>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A client that takes nothing keeps the answer from being asked for anything, so that it cannot end by itself.
async fn take_away(state: Arc<Mutex<State>>, at: Instant) {
    sleep_until(at).await;
    let (inside, waker) = {
        let mut state = lock(&state);
        (state.inside.take(), state.waker.take())
    };
    drop(inside);
    if let Some(waker) = waker {
        waker.wake();
    }
}

struct Outgoing {
    state: Arc<Mutex<State>>,
    timer: AbortHandle,
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.timer.abort();
        let inside = lock(&self.state).inside.take();
        drop(inside);
    }
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut state = lock(&self.state);
        let Some((body, _)) = &mut state.inside else {
            return Poll::Ready(Some(Err("the time of this answer is over".into())));
        };
        let next = Pin::new(body).poll_frame(cx);
        if next.is_pending() {
            state.waker = Some(cx.waker().clone());
        }
        next.map(|next| next.map(|next| next.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.state).inside.as_ref().is_some_and(|(body, _)| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.state).inside.as_ref().map(|(body, _)| body.size_hint()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full, StreamBody};
    use jiff::SignedDuration;

    use super::*;
    use crate::principal::{Caller, Evidence};

    fn identity(name: &str) -> Identity {
        let principal = format!("user:{name}").parse().unwrap();
        Identity::new(Caller::new(vec![principal]), Evidence::Token).unwrap()
    }

    fn here() -> IpAddr {
        IpAddr::from([10, 0, 0, 1])
    }

    fn silent() -> Body {
        let frames = futures_util::stream::pending::<Result<Frame<Bytes>, std::convert::Infallible>>();
        Body::new(StreamBody::new(frames))
    }

    async fn failure(body: Body) -> tonic::Code {
        Status::from_error(body.collect().await.unwrap_err().into()).code()
    }

    #[tokio::test(start_paused = true)]
    async fn each_caller_has_so_many_calls() {
        let calls = Calls::new();
        let (alice, bob) = (identity("alice"), identity("bob"));
        let mut open: Vec<_> =
            (0..MAX_CALLS_OF_ONE).map(|_| calls.begin(Some(&alice), here()).unwrap()).collect();
        assert_eq!(calls.begin(Some(&alice), here()).err(), Some(Refusal::Crowded));
        assert!(calls.begin(Some(&bob), here()).is_ok() && calls.begin(None, here()).is_ok());
        // A call is under way until its answer is over, or taken away.
        let answer = open.pop().unwrap().send(silent());
        assert!(calls.begin(Some(&alice), here()).is_err());
        drop(answer);
        let ends = Timestamp::now() + SignedDuration::from_secs(60);
        let short = Identity { expires_at: Some(ends), ..alice.clone() };
        let mut answer = calls.begin(Some(&short), here()).unwrap().send(silent());
        assert!(calls.begin(Some(&alice), here()).is_err());
        tokio::time::sleep(Duration::from_secs(63)).await;
        assert!(calls.begin(Some(&alice), here()).is_ok(), "nobody asked for the answer, and it is gone");
        assert!(answer.frame().await.unwrap().is_err());
        // Somebody who waits for more is told.
        let mut answer = calls.begin(None, here()).unwrap().send(silent());
        assert!(answer.frame().await.unwrap().is_err());
        assert!(calls.begin(Some(&bob), here()).unwrap().send(Body::from("whole")).collect().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_have_a_size_and_an_end_and_share_what_there_is() {
        let calls = Calls::new();
        let alice = identity("alice");
        let begin = || calls.begin(Some(&alice), here()).unwrap();
        let of = |bytes: usize| Body::new(Full::new(Bytes::from(vec![0; bytes])));
        assert!(begin().receive(of(MAX_MESSAGE_BYTES)).collect().await.is_ok());
        assert_eq!(failure(begin().receive(of(MAX_BODY_BYTES + 1))).await, tonic::Code::OutOfRange);
        let stranger = calls.begin(None, here()).unwrap();
        assert_eq!(failure(stranger.receive(of(5000))).await, tonic::Code::OutOfRange);
        assert_eq!(failure(begin().receive(silent())).await, tonic::Code::DeadlineExceeded);

        let hoarder = calls.begin(Some(&identity("bob")), here()).unwrap();
        hoarder.held.add(MAX_HELD_BYTES - 100).unwrap();
        assert_eq!(failure(begin().receive(of(101))).await, tonic::Code::ResourceExhausted);
        assert!(begin().receive(of(100)).collect().await.is_ok());
        let _answer = hoarder.send(silent());
        assert!(
            begin().receive(of(MAX_MESSAGE_BYTES)).collect().await.is_ok(),
            "given back before the answer"
        );
    }
}
