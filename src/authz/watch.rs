//! Ends live streams whose grants are gone: revoked, locked, or no longer enough for policy.
//!
//! Envoy asks ext_authz once, when a stream begins. Beside it an ext_proc filter holds one idle call here for as long as the
//! stream lives, which is answered out of turn when the stream must end. What is let in is not decided here, no body passes,
//! and a watch that is lost cuts nothing: the deadline that came with the allow still holds. While the replica is stale
//! nothing is cut either. What became known by then is made good once it is fresh.

mod call;
mod decided;
mod look;
mod places;
mod recent;
mod registry;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::{Checker, Enforcement};
use crate::clock::{BootTime, Now};
use crate::decision::{Decision, DenyReason};
use crate::replica::Change;

pub use call::WatchService;
pub use places::Room;
pub use recent::{Admitted, Footing, Recent};

use look::{Depth, Looked};
use places::Places;
use registry::{Ending, Registry};

/// How late the watch ends a stream whose grant has ended. Envoy's own timer and gRPC's deadline are exact, and say more
/// to the client; this is for streams on whose way the deadline header was lost.
pub const END_GRACE: Duration = Duration::from_millis(75);
/// Between two looks at the clock: timers do not count suspended time, grants do.
const CLOCK_PERIOD: Duration = Duration::from_secs(1);
/// What the wall clock may differ from the boot clock by, more than it did, before dates are judged anew.
const CLOCK_STEP: Duration = Duration::from_millis(50);
/// Before what nobody could tell is looked at again.
const RETRY_PERIOD: Duration = Duration::from_millis(100);
/// Looks go on for this long before checks of the same thread, and news, have their turn. One evaluation of policy may be longer.
const TURN: Duration = Duration::from_millis(1);
/// And for this long in all before the clock and a new policy are looked at, however much news there is.
const PASS: Duration = Duration::from_millis(50);
/// How a stream that ended by itself is counted.
const CLOSED: &str = "closed";

/// What all watchers of a process share.
#[derive(Default)]
pub struct Streams {
    pub recent: Recent,
    places: Places,
}

/// Watches over the streams whose calls are served by one thread.
pub struct Watcher {
    checker: Arc<Checker>,
    registry: Registry,
}

/// Whether all that was due has been looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Done,
    Cut,
}

/// What a watcher hears.
struct News {
    /// None while there is no stream: then nobody is woken for changes.
    changes: Option<Receiver<Change>>,
    is_stopped: watch::Receiver<bool>,
}

impl Watcher {
    #[must_use]
    pub fn new(checker: Arc<Checker>) -> Self {
        Self { checker, registry: Registry::default() }
    }

    /// Ends what must end, as long as it runs. `policies` changes with every policy that comes into force. When the process
    /// stops, all streams are let go.
    pub async fn keep<T>(
        &self,
        mut policies: watch::Receiver<T>,
        is_stopped: watch::Receiver<bool>,
    ) -> Infallible {
        let mut news = News { changes: None, is_stopped: is_stopped.clone() };
        let mut stop = std::pin::pin!(until_stopped(is_stopped));
        let mut are_policies_over = false;
        let mut in_force = self.revision();
        let mut wall = wall_time(self.checker.clock.now());
        let mut pass = Pass::Done;
        loop {
            let next_look = if pass == Pass::Cut { Instant::now() } else { self.next_look() };
            tokio::select! {
                change = next_change(&mut news.changes) => self.note(change),
                turn = policies.changed(), if !are_policies_over => are_policies_over = turn.is_err(),
                () = self.registry.has_news() => {}
                () = sleep_until(next_look) => {}
                () = &mut stop => break,
            }
            // Subscribed before the first look at a stream: that sees what has changed, and this hears what changes.
            if self.registry.is_empty() {
                news.changes = None;
            } else if news.changes.is_none() {
                news.changes = Some(self.checker.replica.changes());
            }
            self.note_waiting(&mut news);
            let now_in_force = self.revision();
            if !Arc::ptr_eq(&in_force, &now_in_force) {
                self.registry.look_at_all(Depth::Policy);
                in_force = now_in_force;
            }
            let wall_now = wall_time(self.checker.clock.now());
            if wall_now.abs_diff(wall) > CLOCK_STEP {
                self.registry.look_at_all(Depth::Grants);
                wall = wall_now;
            }
            pass = self.settle(&mut news).await;
        }
        self.registry.let_all_go();
        std::future::pending().await
    }

    /// Each policy that comes into force has one of its own, also if it reads the same.
    fn revision(&self) -> Arc<str> {
        Arc::clone(&self.checker.rules.current().revision)
    }

    fn note(&self, change: Result<Change, RecvError>) {
        match change {
            Ok(Change::Grant(id)) => self.registry.look_at_grant(&id),
            Ok(Change::Locks | Change::Everything) | Err(RecvError::Lagged(_)) => {
                self.registry.look_at_all(Depth::Grants);
            }
            // The replica is gone, and with it everything that asks it.
            Err(RecvError::Closed) => {}
        }
    }

    fn note_waiting(&self, news: &mut News) {
        let Some(changes) = &mut news.changes else { return };
        loop {
            match changes.try_recv() {
                Ok(change) => self.note(Ok(change)),
                Err(TryRecvError::Lagged(missed)) => self.note(Err(RecvError::Lagged(missed))),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    fn next_look(&self) -> Instant {
        let now = self.checker.clock.now();
        let ends = self.registry.next_end().map(|end| (end + END_GRACE).since(now.boot));
        let retry = self.registry.is_anything_due().then_some(RETRY_PERIOD);
        let wait = ends.into_iter().chain(retry).fold(CLOCK_PERIOD, Duration::min);
        // A millisecond at least: timers have no finer steps, and would come round at once.
        Instant::now() + wait.max(Duration::from_millis(1))
    }

    /// Looks at every stream that something may have changed for, and at those whose end has come.
    async fn settle(&self, news: &mut News) -> Pass {
        self.registry.look_at_ended(self.checker.clock.now(), END_GRACE);
        let mut later = Vec::new();
        let began = Instant::now();
        let mut turn = began;
        let mut pass = Pass::Done;
        while let Some((id, depth)) = self.registry.next_due() {
            if turn.elapsed() >= TURN {
                tokio::task::yield_now().await;
                self.note_waiting(news);
                turn = Instant::now();
                if *news.is_stopped.borrow() || began.elapsed() >= PASS {
                    later.push((id, depth));
                    pass = Pass::Cut;
                    break;
                }
            }
            let Some(known) = self.registry.get(id) else { continue };
            let mut looked =
                if self.is_known() { self.look(&known, depth) } else { self.look_at_clock(&known) };
            if matches!(looked, Looked::Decide) {
                looked = self.decide_again(&known).await;
            }
            match looked {
                Looked::Same => {}
                Looked::Other(known) => self.registry.replace(id, known),
                Looked::Again(known) => {
                    self.registry.replace(id, known);
                    later.push((id, depth));
                }
                Looked::Unknown | Looked::Decide => later.push((id, depth)),
                Looked::Over(decision) => match decision.deny_reason() {
                    Some(DenyReason::GrantExpired) => self.end(id, *decision),
                    // Asked again: what a look did not find may have been forgotten with all the rest.
                    _ if self.is_known() => self.end(id, *decision),
                    _ => later.push((id, depth)),
                },
            }
        }
        self.registry.look_later(later);
        pass
    }

    /// Whether what the replica says can be believed at the moment.
    fn is_known(&self) -> bool {
        let replica = &self.checker.replica;
        replica.freshness(self.checker.clock.now()).is_fresh() && !replica.is_lock_in_doubt()
    }

    fn end(&self, id: u64, decision: Decision) {
        let reason = decision.reason_code();
        match self.registry.end(id, decision) {
            Ending::Told(known) => {
                self.checker.metrics.count_stream_end(reason);
                let (decision_id, request_id) = (&*known.decision, known.request_id.as_deref());
                tracing::info!(decision_id, request_id, reason, "ended a live stream");
            }
            Ending::JustClosed => self.checker.metrics.count_stream_end(CLOSED),
            Ending::Unknown => {}
        }
    }

    /// Whether calls are watched over at all: `--dry-run` cuts nothing.
    fn is_enforcing(&self) -> bool {
        self.checker.config.enforcement == Enforcement::Enforce
    }
}

/// The wall clock's time when the machine started, by what both clocks say now. It moves when somebody sets the wall clock.
fn wall_time(now: Now) -> Duration {
    let wall = Duration::try_from(now.wall.duration_since(jiff::Timestamp::UNIX_EPOCH)).unwrap_or_default();
    wall.saturating_sub(now.boot.since(BootTime::from_millis(0)))
}

async fn next_change(changes: &mut Option<Receiver<Change>>) -> Result<Change, RecvError> {
    match changes {
        Some(changes) => changes.recv().await,
        None => std::future::pending().await,
    }
}

async fn until_stopped(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it everything that could still be served.
    let _ = stopped.wait_for(|is_stopped| *is_stopped).await;
}
