//! What happens by itself: scheduled grants begin, grants and locks run their time, requests expire.
//!
//! Any instance does it, whichever gets there first: the commit is against what was seen, so it is done, and recorded,
//! once. Nothing here gives access that was not decided, and no grant waits for it to end: keys end by themselves.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::changes::{Plan, read_if_any};
use super::counting::persons;
use super::event::{Event, EventType};
use super::giving::{self, Moment};
use super::grants::rows_of;
use super::model::{Registered, Request, Standing, State};
use super::noting::Noting;
use super::questions::{About, Action};
use super::reviews::current;
use super::{Desk, DeskError, after, until};
use crate::clock::Clock;
use crate::grant::GrantId;
use crate::store::StoreError;
use crate::store::journal::{Index, Look, Row, Table, Write};

/// Longest pause between looks: what another instance schedules is not heard of.
const MAX_PAUSE: Duration = Duration::from_millis(500);
/// And the shortest: a key may outlive its moment by the milliseconds between a look and a commit.
const MIN_PAUSE: Duration = Duration::from_millis(5);
/// After an error of the store.
const ERROR_PAUSE: Duration = Duration::from_secs(2);
/// Until what could not be done is tried again.
const POSTPONED: Duration = Duration::from_secs(30);
/// Of one look.
const BATCH: usize = 100;

/// Whether the store is the trouble: then nothing else can be done either.
fn is_of_store(error: &DeskError) -> bool {
    matches!(
        error,
        DeskError::Store(_) | DeskError::Unwritten(StoreError::Unavailable(_) | StoreError::NotNow(_))
    )
}

/// Why a grant does not begin.
enum Obstacle {
    /// For good.
    Refused(String),
    /// Nobody knows yet.
    Unknown(DeskError),
}

impl Desk {
    /// Does what is due, for ever, and records what nobody else would.
    pub async fn keep_time(self: Arc<Self>) -> Infallible {
        let mut down_since: Option<Timestamp> = None;
        let mut noting = Noting::default();
        loop {
            let pause = match self.round(&mut noting).await {
                Ok(pause) => {
                    if let Some(since) = down_since.take() {
                        self.note_recovery(since).await;
                    }
                    pause
                }
                Err(error) => {
                    // Once for each trouble, not for each look.
                    if down_since.is_none() && is_of_store(&error) {
                        tracing::warn!("what is due cannot be done, and will be: {error}");
                        down_since = Some(Clock::System.now().wall);
                    }
                    ERROR_PAUSE
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn round(&self, noting: &mut Noting) -> Result<Duration, DeskError> {
        if let Err(error) = self.note(noting).await {
            // What cannot be noted keeps nothing from beginning or ending.
            if is_of_store(&error) {
                return Err(error);
            }
            noting.complain(&error);
        }
        self.do_what_is_due().await
    }

    /// One round. How long there is nothing to do after it.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub async fn do_what_is_due(&self) -> Result<Duration, DeskError> {
        let due = self.store.due(BATCH).await?;
        for (text, _) in &due.what {
            // One that fails keeps no other from its turn, now or the next time.
            if let Err(error) = self.do_one(text).await {
                if is_of_store(&error) {
                    return Err(error);
                }
                tracing::warn!(what = text, "what is due cannot be done, and is tried again: {error}");
                self.postpone(text).await?;
            }
        }
        if !due.what.is_empty() {
            return Ok(MIN_PAUSE);
        }
        let next = due.next.map_or(MAX_PAUSE, |next| until(due.now, next));
        Ok(next.clamp(MIN_PAUSE, MAX_PAUSE))
    }

    async fn do_one(&self, text: &str) -> Result<(), DeskError> {
        match Moment::parse(text) {
            Some(Moment::Start(id)) => self.start(&id).await,
            Some(Moment::End(id)) => self.run_out(&id).await,
            Some(Moment::Expiry(id)) => self.expire(&id).await,
            Some(Moment::LockEnd(id)) => self.lock_end(&id).await,
            None => self.drop_moment(text).await,
        }
    }

    /// Looked at again after a while, behind what is due now.
    async fn postpone(&self, text: &str) -> Result<(), DeskError> {
        let later = |look: &Look| {
            let due = Write::Due { what: text.to_owned(), at: after(look.now, POSTPONED) };
            Ok(Plan::new((), vec![due], Vec::new()))
        };
        self.change(&[], later).await.map(|_| ())
    }

    /// A scheduled grant begins, if all that was decided still holds.
    async fn start(&self, id: &str) -> Result<(), DeskError> {
        let moment = Moment::Start(id.to_owned());
        let look = self.store.look(&[Row::new(Table::Register, id)]).await?;
        let request = read_if_any::<Registered>(&look, 0)?.and_then(|grant| grant.record.request);
        let (Some(request), Ok(grant_id)) = (request, id.parse::<GrantId>()) else {
            return self.drop_moment(&moment.text()).await;
        };
        let rows = [Row::new(Table::Register, id), Row::new(Table::Requests, request)];
        let begun = self.begin_or_cancel(&rows, &moment, &grant_id, None).await;
        let refused = match begun {
            Err(DeskError::Unwritten(
                error @ (StoreError::Full(_) | StoreError::Invalid(_) | StoreError::AlreadyExists),
            )) => error.to_string(),
            begun => return begun,
        };
        self.begin_or_cancel(&rows, &moment, &grant_id, Some(&refused)).await
    }

    async fn begin_or_cancel(
        &self,
        rows: &[Row],
        moment: &Moment,
        grant_id: &GrantId,
        refused: Option<&str>,
    ) -> Result<(), DeskError> {
        let id = grant_id.as_str();
        let decide = |look: &Look| {
            let Some(mut grant) = read_if_any::<Registered>(look, 0)? else {
                return Ok(Plan::new((), vec![moment.never()], Vec::new()));
            };
            if grant.standing != Standing::Scheduled {
                return Ok(Plan::new((), vec![moment.never()], Vec::new()));
            }
            if look.now < grant.starts {
                return Ok(Plan::nothing(()));
            }
            let request = read_if_any::<Request>(look, 1)?;
            let checked = match refused {
                Some(reason) => Err(Obstacle::Refused(reason.to_owned())),
                None => self.check_start(&grant, request.as_ref(), look.now),
            };
            let refused = match checked {
                _ if look.now >= grant.expires => {
                    Some("its time had passed before it could begin".to_owned())
                }
                Ok(ttl) => {
                    grant.expires = grant.expires.min(after(grant.starts, ttl));
                    (look.now >= grant.expires).then(|| "its time was shortened, and has passed".to_owned())
                }
                Err(Obstacle::Refused(reason)) => Some(reason),
                Err(Obstacle::Unknown(error)) => return Err(error),
            };
            let leave = |index| Write::Leave { index, id: id.to_owned() };
            let mut writes = vec![moment.never(), leave(Index::Scheduled)];
            let event = if let Some(reason) = refused {
                writes.push(leave(Index::Limited));
                grant.standing = Standing::Cancelled;
                grant.end_reason.clone_from(&reason);
                Event::new(EventType::GrantCancelled, look.now).on_grant(&grant).because(&reason)
            } else {
                grant.standing = Standing::Active;
                writes.extend(giving::give(grant_id, &grant, until(look.now, grant.expires))?);
                Event::new(EventType::GrantActivated, look.now).on_grant(&grant)
            };
            writes.push(giving::put(&grant, look.now)?);
            Ok(Plan::new((), writes, vec![event]))
        };
        self.change(rows, decide).await.map(|_| ())
    }

    /// Whoever was eligible must still be, and whose approval counted must still count. How long it may last by now.
    fn check_start(
        &self,
        grant: &Registered,
        request: Option<&Request>,
        now: Timestamp,
    ) -> Result<Duration, Obstacle> {
        let obstacle = |error| match error {
            DeskError::Denied(_) | DeskError::State(_) => Obstacle::Refused(error.to_string()),
            error => Obstacle::Unknown(error),
        };
        let request = request.ok_or_else(|| Obstacle::Refused("its request is gone".to_owned()))?;
        let admission = self.admission.current();
        let asking = self.asking(&admission, None, now);
        let entitlement = current(&asking, request).map_err(obstacle)?;
        let locks = self.known_locks().map_err(obstacle)?;
        // A lock is not for ever: the grant waits, and sidecars would refuse it anyway.
        locks.check(request.parties(), Some(&request.entitlement)).map_err(Obstacle::Unknown)?;
        let about = About {
            entitlement: Some(entitlement),
            request: Some(request),
            grant: Some(grant),
            ..About::default()
        };
        let mut terms = asking.require(Action::GrantStart, about).map_err(obstacle)?;
        locks.strike(&mut terms.approvals, &request.reviews);
        let agree = persons(&request.reviews, &terms.approvals).len();
        if agree < usize::try_from(terms.approvals_required).unwrap_or(usize::MAX) {
            let required = terms.approvals_required;
            return Err(Obstacle::Refused(format!("{agree} of {required} approvals count at its start")));
        }
        Ok(terms.ttl.unwrap_or(self.limits.max_grant_ttl).min(self.limits.max_grant_ttl))
    }

    /// A grant has run its time.
    async fn run_out(&self, id: &str) -> Result<(), DeskError> {
        let moment = Moment::End(id.to_owned());
        let decide = |look: &Look| {
            let mut writes = vec![moment.never()];
            let Some(mut grant) = read_if_any::<Registered>(look, 0)? else {
                return Ok(Plan::new((), writes, Vec::new()));
            };
            if grant.standing != Standing::Active {
                return Ok(Plan::new((), writes, Vec::new()));
            }
            let has_key = look.values.get(1).is_some_and(Option::is_some);
            // Extended, or the key has some milliseconds left.
            if look.now < grant.expires || (has_key && until(grant.expires, look.now) < ERROR_PAUSE) {
                return Ok(Plan::nothing(()));
            }
            if has_key {
                // Somebody gave the key more time without the desk: it is looked at again until it is gone.
                writes = vec![moment.at(after(look.now, POSTPONED))];
                return Ok(Plan::new((), writes, Vec::new()));
            }
            grant.standing = Standing::Ended;
            writes.push(Write::Leave { index: Index::Limited, id: id.to_owned() });
            writes.push(giving::put(&grant, look.now)?);
            let event = Event::new(EventType::GrantEnded, look.now).on_grant(&grant);
            Ok(Plan::new((), writes, vec![event]))
        };
        self.change(&rows_of(id), decide).await.map(|_| ())
    }

    async fn expire(&self, id: &str) -> Result<(), DeskError> {
        let moment = Moment::Expiry(id.to_owned());
        let decide = |look: &Look| {
            let request = read_if_any::<Request>(look, 0)?.filter(|request| request.state == State::Pending);
            let Some(mut request) = request else {
                return Ok(Plan::new((), vec![moment.never()], Vec::new()));
            };
            if look.now < request.approve_by {
                return Ok(Plan::nothing(()));
            }
            request.state = State::Expired;
            request.decided = Some(request.approve_by);
            let event = Event::new(EventType::RequestExpired, look.now).on_request(&request);
            Ok(Plan::new((), giving::put_request(&request, look.now, false)?, vec![event]))
        };
        self.change(&[Row::new(Table::Requests, id)], decide).await.map(|_| ())
    }

    async fn lock_end(&self, id: &str) -> Result<(), DeskError> {
        let moment = Moment::LockEnd(id.to_owned());
        let decide = |look: &Look| {
            if look.values.first().is_some_and(Option::is_some) {
                // It was set again, for longer.
                return Ok(Plan::new((), vec![moment.at(after(look.now, POSTPONED))], Vec::new()));
            }
            let mut event = Event::new(EventType::LockEnded, look.now);
            event.lock = Some(id.to_owned());
            Ok(Plan::new((), vec![moment.never()], vec![event]))
        };
        self.change(&[Row::new(Table::Locks, id)], decide).await.map(|_| ())
    }

    /// Nothing that this version knows of.
    async fn drop_moment(&self, text: &str) -> Result<(), DeskError> {
        let drop = |_: &Look| Ok(Plan::new((), vec![Write::NotDue(text.to_owned())], Vec::new()));
        self.change(&[], drop).await.map(|_| ())
    }
}
