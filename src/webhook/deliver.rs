//! Delivers to one webhook, in the order of the journal and each event at least once.
//!
//! A round: look at the mark, take the lease if there is something to deliver, deliver, move the mark behind what is
//! done. The mark is moved against what it was, so whoever has lost the lease notices before the next delivery, and only the
//! one in flight can be delivered twice.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{sleep, timeout};

use super::body::body;
use super::config::WebhookConfig;
use super::mark::{Lease, Mark, Pause, Place};
use super::record::Told;
use super::send::{Delivery, Verdict, send};
use crate::clock::{BootTime, Clock};
use crate::desk::admission::LiveAdmission;
use crate::metrics::Metrics;
use crate::store::journal::{Commit, KEEP, Look, Outcome, Row, StoredEvent, Table, Write};
use crate::store::{Store, StoreError};

/// Events that are read at once.
const BATCH: usize = 200;
/// First pause after a failure, and the longest; it doubles in between.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(300);
/// By how much a lease is longer than an attempt: for the store to answer before and after.
const LEASE_MARGIN: Duration = Duration::from_secs(5);
/// Longest wait without a look at what the others do.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// The same for a journal that does not move.
const IDLE_PERIOD: Duration = Duration::from_secs(5);
/// An attempt is not begun with less of the lease left than it may take, and this.
const LEASE_RESERVE: Duration = Duration::from_secs(1);
/// After an error of the store.
const ERROR_PAUSE: Duration = Duration::from_secs(1);

/// What becomes of an event; the names stand in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Delivered,
    /// An attempt that is made again.
    Failed,
    /// The receiver does not want it.
    Refused,
    /// Older than `max_age`.
    Expired,
    /// The journal had let go of it.
    Lost,
    /// Not an event that can be read.
    Unreadable,
}

impl Fate {
    pub const ALL: [Self; 6] =
        [Self::Delivered, Self::Failed, Self::Refused, Self::Expired, Self::Lost, Self::Unreadable];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::Lost => "lost",
            Self::Unreadable => "unreadable",
        }
    }
}

pub struct Deliverer {
    pub config: WebhookConfig,
    pub store: Arc<Store>,
    pub admission: Arc<LiveAdmission>,
    pub metrics: Arc<Metrics>,
    /// Who we are, to the others at the store.
    pub owner: String,
}

/// The mark as it is in the store, and the store's clock, which goes on from the look by ours.
struct Held {
    text: Option<String>,
    mark: Mark,
    looked: (BootTime, Timestamp),
}

impl Held {
    /// Never before what it is: the look was begun before the store saw its clock.
    fn now(&self) -> Timestamp {
        let (at, now) = self.looked;
        after(now, Clock::System.now().boot.since(at))
    }
}

fn after(moment: Timestamp, duration: Duration) -> Timestamp {
    moment.checked_add(duration).unwrap_or(Timestamp::MAX)
}

/// Somebody else has moved the mark, or holds the lease.
struct Displaced;

enum Stop {
    Displaced,
    Store(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Deliverer {
    /// For ever.
    pub async fn run(self) -> Infallible {
        let mut is_reported = false;
        loop {
            match self.round().await {
                Ok(pause) => {
                    is_reported = false;
                    sleep(pause).await;
                }
                Err(error) => {
                    // Once for each trouble, not for each round.
                    if !std::mem::replace(&mut is_reported, true) {
                        let name = &self.config.name;
                        tracing::warn!(webhook = name, "the store does not let events be delivered: {error}");
                    }
                    sleep(ERROR_PAUSE).await;
                }
            }
        }
    }

    /// What there is to do now; how long there is nothing after it.
    async fn round(&self) -> Result<Duration, StoreError> {
        let began = Clock::System.now().boot;
        let look = self.store.look(&[self.row()]).await?;
        let Some(held) = self.read_mark(began, &look).await? else { return Ok(Duration::ZERO) };
        self.metrics
            .set_webhook_lag(&self.config.name, look.head.number.saturating_sub(held.mark.place.number));
        if held.mark.place.number >= look.head.number {
            // A server that lost its journal is found out by looking.
            let _ = timeout(IDLE_PERIOD, self.store.moved(held.mark.place.number)).await;
            return Ok(Duration::ZERO);
        }
        // The only process at this store: a lease is of one that has ended.
        let is_alone = matches!(*self.store, Store::Embedded(_));
        let mut mark = held.mark.clone();
        mark.lease = mark.lease.filter(|_| !is_alone);
        let wait = mark.wait(&self.owner, look.now);
        if !wait.is_zero() {
            return Ok(wait.min(LOOK_PERIOD));
        }
        let events = self.store.events(held.mark.place.number, BATCH).await?;
        match self.deliver_all(held, &look, events).await {
            Ok(()) => Ok(Duration::ZERO),
            Err(Stop::Displaced) => Ok(MIN_PAUSE / 10),
            Err(Stop::Store(error)) => Err(error),
        }
    }

    fn row(&self) -> Row {
        Row::new(Table::Webhooks, self.config.name.clone())
    }

    /// None: it was put right, look again. A new webhook begins at the journal's end.
    async fn read_mark(&self, began: BootTime, look: &Look) -> Result<Option<Held>, StoreError> {
        let text = look.values.first().cloned().flatten();
        let mark = text.as_deref().map(serde_json::from_str::<Mark>);
        let (name, end) = (&self.config.name, look.head.number);
        let looked = (began, look.now);
        let mut held = Held { text, mark: Mark::default(), looked };
        let put_right = match mark {
            Some(Ok(mark)) => {
                held.mark = mark;
                if !held.mark.place.is_elsewhere(&look.head) {
                    return Ok(Some(held));
                }
                self.search(&mut held).await
            }
            None => {
                tracing::info!(webhook = name, after = end, "a new webhook begins with the next event");
                self.write(&mut held, Mark::at(Place::end(&look.head, look.now))).await
            }
            Some(Err(error)) => {
                tracing::error!(
                    webhook = name,
                    "how far it is cannot be read, so it goes on behind event {end}: {error}"
                );
                self.write(&mut held, Mark::at(Place::end(&look.head, look.now))).await
            }
        };
        match put_right {
            Ok(()) | Err(Stop::Displaced) => Ok(None),
            Err(Stop::Store(error)) => Err(error),
        }
    }

    /// In a journal that is not the one it was in.
    async fn search(&self, held: &mut Held) -> Result<(), Stop> {
        let place = held.mark.place.search();
        let Place { number, time, .. } = held.mark.place;
        tracing::warn!(
            webhook = self.config.name,
            "the journal is another than that of event {number}: the store has lost events; what it has since {time} is \
             delivered, some perhaps again"
        );
        self.write(held, Mark::at(place)).await
    }

    async fn deliver_all(&self, mut held: Held, look: &Look, events: Vec<StoredEvent>) -> Result<(), Stop> {
        let place = held.mark.place.clone();
        let Some(first) = events.first() else {
            // They were there when the head was looked at, and nobody can read them any more.
            self.say_lost(&place, look.head.number.saturating_add(1));
            return self.write(&mut held, Mark::at(Place::end(&look.head, look.now))).await;
        };
        if !place.is_followed_by(first) {
            return self.search(&mut held).await;
        }
        self.say_lost(&place, first.number);
        // Until it is written, what has been passed over would be passed over again: nothing is lost by that.
        let mut passed = place.clone();
        if first.number.saturating_sub(1) > place.number {
            passed = Place { number: first.number.saturating_sub(1), hash: String::new(), ..place.clone() };
        }
        for stored in events {
            let told = Told::parse(&stored.document);
            let time = told.as_ref().and_then(|told| told.time).unwrap_or(passed.time);
            let next = Place {
                number: stored.number,
                hash: stored.hash.clone(),
                time,
                since: passed.since.filter(|since| time < *since),
            };
            let Some(told) = self.wanted(&stored, told, &next, look.now) else {
                passed = next;
                continue;
            };
            let attempts = if passed == place { held.mark.attempts() } else { 0 };
            self.take_lease(&mut held, passed).await?;
            if !self.deliver_one(&mut held, &stored, &told, attempts).await? {
                return Ok(());
            }
            // Written with the lease for the next one, at once.
            passed = next;
        }
        self.write(&mut held, Mark::at(passed)).await
    }

    /// An event that is to be delivered. Others are counted where somebody misses them.
    fn wanted(
        &self,
        stored: &StoredEvent,
        told: Option<Told>,
        place: &Place,
        now: Timestamp,
    ) -> Option<Told> {
        let (name, number) = (&self.config.name, stored.number);
        if place.since.is_some() {
            return None;
        }
        let Some(told) = told else {
            tracing::error!(
                webhook = name,
                number,
                "an entry of the journal is no event, and is not delivered"
            );
            self.count(Fate::Unreadable);
            return None;
        };
        let admission = self.admission.current();
        let entitlement =
            told.entitlement.as_deref().and_then(|entitlement| admission.entitlements().get(entitlement));
        let is_named = entitlement.is_some_and(|entitlement| entitlement.webhooks.contains(name));
        if !self.config.takes(&told, is_named) {
            return None;
        }
        let age = told.time.and_then(|time| Duration::try_from(now.duration_since(time)).ok());
        if age.is_some_and(|age| age > self.config.max_age) {
            tracing::warn!(
                webhook = name,
                number,
                kind = told.kind,
                "not delivered: older than {:?}",
                self.config.max_age
            );
            self.count(Fate::Expired);
            return None;
        }
        Some(told)
    }

    fn say_lost(&self, place: &Place, next: u64) {
        let lost = next.saturating_sub(place.number).saturating_sub(1);
        // One that searches begins before what is there.
        if lost > 0 && place.since.is_none() {
            tracing::warn!(
                webhook = self.config.name,
                "{lost} events from number {} on left the journal before they could be delivered",
                place.number.saturating_add(1)
            );
            self.metrics.count_webhook(&self.config.name, Fate::Lost.as_str(), lost);
        }
    }

    fn count(&self, fate: Fate) {
        self.metrics.count_webhook(&self.config.name, fate.as_str(), 1);
    }

    /// Ours for as long as an attempt and its mark take. What has been passed over is done with.
    async fn take_lease(&self, held: &mut Held, passed: Place) -> Result<(), Stop> {
        loop {
            let until = after(held.now(), self.config.timeout + LEASE_MARGIN);
            let lease = Some(Lease { owner: self.owner.clone(), until });
            let pause = held.mark.pause.clone().filter(|_| passed == held.mark.place);
            self.write(held, Mark { place: passed.clone(), lease, pause }).await?;
            // The store may have been long in taking it.
            if after(held.now(), self.config.timeout + LEASE_RESERVE) <= until {
                return Ok(());
            }
        }
    }

    /// Whether it is done with. If not, the mark says when to go on.
    async fn deliver_one(
        &self,
        held: &mut Held,
        stored: &StoredEvent,
        told: &Told,
        attempts: u32,
    ) -> Result<bool, Stop> {
        let (name, number, kind) = (&self.config.name, stored.number, &told.kind);
        let delivery = Delivery { number, kind: kind.clone(), body: body(self.config.format, stored, told) };
        let (why, retry_after) = match send(&self.config, &delivery, Clock::System.now().wall).await {
            Verdict::Delivered => {
                tracing::debug!(webhook = name, number, kind, "delivered");
                self.count(Fate::Delivered);
                return Ok(true);
            }
            Verdict::Refused(status) => {
                tracing::warn!(
                    webhook = name,
                    number,
                    kind,
                    "not delivered: the receiver refuses it, {status}"
                );
                self.count(Fate::Refused);
                return Ok(true);
            }
            Verdict::Failed { why, retry_after } => (why, retry_after),
        };
        self.count(Fate::Failed);
        let attempts = attempts.saturating_add(1);
        let pause = backoff(attempts).max(retry_after.unwrap_or_default());
        // Once for each outage; what it is meanwhile is in the metrics.
        if attempts == 1 {
            tracing::warn!(webhook = name, number, kind, "not delivered, tried again in {pause:?}: {why}");
        } else {
            tracing::debug!(
                webhook = name,
                number,
                attempts,
                "not delivered, tried again in {pause:?}: {why}"
            );
        }
        let until = after(held.now(), pause);
        let mark = Mark { pause: Some(Pause { attempts, until }), ..Mark::at(held.mark.place.clone()) };
        self.write(held, mark).await?;
        Ok(false)
    }

    /// Moves the mark, if it is still what it was. A store in trouble is waited for: what has been delivered is not to be
    /// delivered again because of it.
    async fn write(&self, held: &mut Held, mark: Mark) -> Result<(), Stop> {
        let text = serde_json::to_string(&mark).unwrap_or_default();
        let mut is_reported = false;
        loop {
            match self.try_write(held.text.clone(), &text).await {
                Ok(Ok(())) => {
                    (held.text, held.mark) = (Some(text), mark);
                    return Ok(());
                }
                Ok(Err(Displaced)) => return Err(Stop::Displaced),
                Err(error) => {
                    if !std::mem::replace(&mut is_reported, true) {
                        let name = &self.config.name;
                        tracing::warn!(
                            webhook = name,
                            "how far it is cannot be written, and will be: {error}"
                        );
                    }
                    sleep(ERROR_PAUSE).await;
                }
            }
        }
    }

    async fn try_write(
        &self,
        before: Option<String>,
        text: &str,
    ) -> Result<Result<(), Displaced>, StoreError> {
        let write = Write::Put { row: self.row(), value: text.to_owned(), keep: Some(KEEP) };
        let commit =
            Commit { unchanged: vec![(self.row(), before)], writes: vec![write], ..Commit::default() };
        if let Outcome::Done { .. } = self.store.commit(commit).await? {
            return Ok(Ok(()));
        }
        // An attempt whose answer was lost may have written it.
        let found = self.store.look(&[self.row()]).await?.values.into_iter().next().flatten();
        Ok(if found.as_deref() == Some(text) { Ok(()) } else { Err(Displaced) })
    }
}

/// Doubled with each failure, and by chance half of that at least: receivers that come back are not overrun.
fn backoff(attempts: u32) -> Duration {
    let doubled = MIN_PAUSE.saturating_mul(1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX));
    doubled.min(MAX_PAUSE).mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_have_an_end() {
        for (attempts, longest) in [(1, 1), (2, 2), (3, 4), (9, 256), (10, 300), (40, 300), (u32::MAX, 300)] {
            for _ in 0..50 {
                let pause = backoff(attempts);
                let longest = Duration::from_secs(longest);
                assert!(pause <= longest && pause >= longest / 2, "{attempts}: {pause:?}");
            }
        }
    }
}
