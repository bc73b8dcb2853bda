//! Deciding: agree, refuse, take back. A request is decided once, and in time.

use std::time::Duration;

use jiff::Timestamp;

use super::admission::Terms;
use super::changes::{Plan, read};
use super::counting::persons;
use super::event::{Event, EventType};
use super::giving::Held;
use super::model::{Decision, Kind, Party, Request, Review, State, seconds};
use super::questions::{About, Action, Asking};
use super::{Desk, DeskError, checked, giving};
use crate::entitlement::Entitlement;
use crate::grant::GrantId;
use crate::principal::Identity;
use crate::store::journal::{Index, KEEP, Look, Row, Table, Write};

impl Desk {
    /// Agrees, to the whole or to less time.
    ///
    /// # Errors
    /// See [`DeskError`].
    pub async fn approve(
        &self,
        who: &Identity,
        id: &str,
        reason: &str,
        duration: Option<Duration>,
    ) -> Result<Request, DeskError> {
        self.check_caller(who)?;
        let reason = checked("reason", reason)?;
        let rows = self.rows_of(id).await?;
        let decide = |look: &Look| {
            let admission = self.admission.current();
            let asking = self.asking(&admission, Some(who), look.now);
            let request = visible(&asking, look)?;
            self.decide_approval(&asking, look, request, &reason, duration)
        };
        Ok(self.change(&rows, decide).await?.answer)
    }

    fn decide_approval(
        &self,
        asking: &Asking<'_>,
        look: &Look,
        mut request: Request,
        reason: &str,
        duration: Option<Duration>,
    ) -> Result<Plan<Request>, DeskError> {
        let now = asking.now;
        check_pending(&request, now)?;
        let review = review(asking, Decision::Approved, reason, duration)?;
        narrows(&request, duration)?;
        let entitlement = current(asking, &request)?;
        let held = extended(look, &request)?;
        let reviewer = review.reviewer.name.clone();
        let is_repeated = request.reviews.iter().any(|before| before.reviewer.name == reviewer);
        request.reviews.push(review);
        let about = About {
            entitlement: Some(entitlement),
            request: Some(&request),
            grant: held.as_ref().map(|held| &held.grant),
            ..About::default()
        };
        let mut terms = asking.require(Action::RequestApprove, about)?;
        let locks = self.known_locks()?;
        let own = request.reviews.last().into_iter().flat_map(|review| review.reviewer.names());
        locks.check(request.parties().chain(own), Some(&request.entitlement))?;
        locks.strike(&mut terms.approvals, &request.reviews);
        if is_repeated {
            return Err(DeskError::State(format!(
                "{reviewer} has reviewed it already; every person counts once"
            )));
        }
        request.approvals_required = terms.approvals_required;
        let review_event = reviewed(asking, &request);
        let mut plan = self.counted(&request, entitlement, held, &terms, now)?;
        plan.writes.extend(giving::put_request(&plan.answer, now, false)?);
        plan.writes.push(Write::Enter {
            index: Index::ReviewedBy(reviewer),
            id: request.id.clone(),
            keep: Some(KEEP),
        });
        plan.events.insert(0, review_event);
        // Judged on the store's clock in the same step: who is late is late, however long the way was.
        plan.before = Some(plan.before.map_or(request.approve_by, |before| before.min(request.approve_by)));
        Ok(plan)
    }

    /// Whether enough persons agree, and what comes of it.
    fn counted(
        &self,
        request: &Request,
        entitlement: &Entitlement,
        held: Option<Held>,
        terms: &Terms,
        now: Timestamp,
    ) -> Result<Plan<Request>, DeskError> {
        let reviews = request.reviews.clone();
        let persons = persons(&reviews, &terms.approvals);
        if persons.len() < usize::try_from(terms.approvals_required).unwrap_or(usize::MAX) {
            return Ok(Plan::new(request.clone(), Vec::new(), Vec::new()));
        }
        let mut request = request.clone();
        if let Some(ttl) = terms.ttl {
            request.duration = request.duration.map(|asked| asked.min(ttl));
        }
        match held {
            Some(held) => self.extension(entitlement, request, held, &persons, now),
            None => self.approved(entitlement, request, &persons, now, EventType::RequestApproved),
        }
    }

    /// What the approval of more time comes to.
    pub(super) fn extension(
        &self,
        entitlement: &Entitlement,
        mut request: Request,
        mut held: Held,
        persons: &[&str],
        now: Timestamp,
    ) -> Result<Plan<Request>, DeskError> {
        let longer = request.narrowed();
        request.state = State::Approved;
        request.decided = Some(now);
        request.granted = Some(longer);
        let cap = entitlement.max_total_ttl.min(self.limits.max_grant_ttl);
        let before = held.grant.expires;
        let writes = giving::extend(&mut held, longer, cap, now)?;
        let Held { grant, key } = held;
        let auto = if request.approvals_required == 0 {
            EventType::RequestAutoApproved
        } else {
            EventType::RequestApproved
        };
        let approved = Event::new(auto, now).on_request(&request).with("approved_by", &persons);
        let extended = Event::new(EventType::GrantExtended, now).on_grant(&grant).with("expired_at", &before);
        let mut plan = Plan::new(request, writes, vec![approved, extended]);
        plan.unchanged.push((Row::new(Table::Grants, grant.id.clone()), Some(key)));
        plan.before = Some(before);
        Ok(plan)
    }

    /// Refuses. One denial ends a request.
    ///
    /// # Errors
    /// See [`DeskError`].
    pub async fn deny(&self, who: &Identity, id: &str, reason: &str) -> Result<Request, DeskError> {
        self.check_caller(who)?;
        let reason = checked("reason", reason)?;
        let rows = self.rows_of(id).await?;
        let decide = |look: &Look| {
            let admission = self.admission.current();
            let asking = self.asking(&admission, Some(who), look.now);
            let mut request = visible(&asking, look)?;
            check_pending(&request, look.now)?;
            let review = review(&asking, Decision::Denied, &reason, None)?;
            let reviewer = review.reviewer.name.clone();
            request.reviews.push(review);
            // An entitlement that is gone keeps nobody from refusing, if policy finds a reason to let them.
            let entitlement = admission.entitlements().get(&request.entitlement);
            let about = About { entitlement, request: Some(&request), ..About::default() };
            asking.require(Action::RequestDeny, about)?;
            request.state = State::Denied;
            request.decided = Some(look.now);
            request.reason.clone_from(&reason);
            let denied =
                Event::new(EventType::RequestDenied, look.now).by(who).on_request(&request).because(&reason);
            let events = vec![reviewed(&asking, &request), denied];
            let mut plan =
                Plan::new(request.clone(), giving::put_request(&request, look.now, false)?, events);
            plan.writes.push(Write::Enter {
                index: Index::ReviewedBy(reviewer),
                id: request.id.clone(),
                keep: Some(KEEP),
            });
            plan.before = Some(request.approve_by);
            Ok(plan)
        };
        Ok(self.change(&rows, decide).await?.answer)
    }

    /// Takes one's own request back.
    ///
    /// # Errors
    /// See [`DeskError`].
    pub async fn withdraw(&self, who: &Identity, id: &str) -> Result<Request, DeskError> {
        let rows = self.rows_of(id).await?;
        let decide = |look: &Look| {
            let admission = self.admission.current();
            let asking = self.asking(&admission, Some(who), look.now);
            let mut request = visible(&asking, look)?;
            let entitlement = admission.entitlements().get(&request.entitlement);
            let about = About { entitlement, request: Some(&request), ..About::default() };
            asking.require(Action::RequestWithdraw, about)?;
            check_pending(&request, look.now)?;
            request.state = State::Withdrawn;
            request.decided = Some(look.now);
            let event = Event::new(EventType::RequestWithdrawn, look.now).by(who).on_request(&request);
            let mut plan =
                Plan::new(request.clone(), giving::put_request(&request, look.now, false)?, vec![event]);
            plan.before = Some(request.approve_by);
            Ok(plan)
        };
        Ok(self.change(&rows, decide).await?.answer)
    }

    /// The rows a decision on a request needs: its own, and for an extension its grant's. Which grant that is never
    /// changes.
    async fn rows_of(&self, id: &str) -> Result<Vec<Row>, DeskError> {
        let id: GrantId = id.parse().map_err(|_| DeskError::NotFound("request"))?;
        let row = Row::new(Table::Requests, id.as_str());
        let look = self.store.look(std::slice::from_ref(&row)).await?;
        let request: Request = read(&look, 0, "request")?;
        let grant = request.grant.filter(|_| request.kind == Kind::Extension);
        let of = |table| grant.clone().map(|id| Row::new(table, id));
        Ok([Some(row), of(Table::Register), of(Table::Grants)].into_iter().flatten().collect())
    }
}

/// The request in the first row, if the caller may see it.
fn visible(asking: &Asking<'_>, look: &Look) -> Result<Request, DeskError> {
    let request: Request = read(look, 0, "request")?;
    let entitlement = asking.admission.entitlements().get(&request.entitlement);
    let about = About { entitlement, request: Some(&request), ..About::default() };
    asking.see(Action::RequestView, about, "request")?;
    Ok(request)
}

/// The grant that an extension is for, in the second row, and its key in the third.
fn extended(look: &Look, request: &Request) -> Result<Option<Held>, DeskError> {
    if request.kind == Kind::Access {
        return Ok(None);
    }
    Held::read(look, 1).map(Some)
}

pub(super) fn check_pending(request: &Request, now: Timestamp) -> Result<(), DeskError> {
    if request.state != State::Pending {
        return Err(DeskError::State(format!("the request is {} already", request.state.as_str())));
    }
    if now >= request.approve_by {
        let by = request.approve_by;
        return Err(DeskError::State(format!("the request has expired: nobody decided it before {by:.0}")));
    }
    Ok(())
}

/// What a request was for must be what it gets: an entitlement that gives something else now was not asked for.
pub(super) fn current<'a>(asking: &Asking<'a>, request: &Request) -> Result<&'a Entitlement, DeskError> {
    let found = asking.admission.entitlements().get(&request.entitlement);
    let entitlement = found.ok_or_else(|| {
        DeskError::State(format!("there is no entitlement {} any more", request.entitlement))
    })?;
    if entitlement.gives() == request.gives {
        return Ok(entitlement);
    }
    Err(DeskError::State(format!(
        "what {} gives has changed since it was asked for; it has to be asked for again",
        request.entitlement
    )))
}

fn narrows(request: &Request, duration: Option<Duration>) -> Result<(), DeskError> {
    let Some(duration) = duration else { return Ok(()) };
    if duration < Duration::from_secs(1) {
        return Err(DeskError::Invalid("`duration` is less than a second".to_owned()));
    }
    let asked = request.duration.unwrap_or_default();
    if duration > asked {
        return Err(DeskError::Invalid(format!(
            "`duration` is longer than what was asked for, {} seconds: reviewers narrow, never widen",
            seconds(asked)
        )));
    }
    Ok(())
}

fn review(
    asking: &Asking<'_>,
    decision: Decision,
    reason: &str,
    duration: Option<Duration>,
) -> Result<Review, DeskError> {
    let who = asking.who.ok_or_else(|| DeskError::Invalid("nobody reviews".to_owned()))?;
    Ok(Review { reviewer: Party::of(who), decision, reason: reason.to_owned(), time: asking.now, duration })
}

/// The event of the last review.
fn reviewed(asking: &Asking<'_>, request: &Request) -> Event {
    let mut event = Event::new(EventType::RequestReviewed, asking.now).on_request(request);
    if let Some(who) = asking.who {
        event = event.by(who);
    }
    let Some(review) = request.reviews.last() else { return event };
    let event = event.because(&review.reason).with("decision", &review.decision);
    match review.duration {
        Some(duration) => event.with("duration_s", &seconds(duration)),
        None => event,
    }
}
