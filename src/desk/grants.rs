//! Grants that nobody else has to agree to, and more time for those there are.

use std::time::Duration;

use jiff::Timestamp;

use super::changes::{Plan, read_if_any};
use super::event::{Event, EventType};
use super::giving::{self, Held};
use super::model::{Kind, Registered, Request};
use super::questions::{About, Action, Asking};
use super::requests::{Asked, CallRow, apply, asked_duration, described, draft, remembered};
use super::{Desk, DeskError, after, checked, new_grant_id};
use crate::entitlement::Entitlement;
use crate::grant::{GrantId, Refusal};
use crate::principal::{Identity, Principal};
use crate::store::journal::{Look, Row, Table};
use crate::store::{GrantRecord, StoreError};

/// Shortest reason for an emergency, in characters: "prod down" is one, "asdf" is not.
const MIN_EMERGENCY_REASON: usize = 8;

/// More time for a grant.
#[derive(Debug, Clone)]
pub struct Extend {
    pub id: String,
    pub duration: Duration,
    pub justification: String,
    pub ticket: String,
    pub call: Option<String>,
}

impl Extend {
    fn draft(
        &self,
        who: &Identity,
        entitlement: Option<&Entitlement>,
        held: &Held,
        duration: Duration,
        now: Timestamp,
    ) -> Request {
        Request {
            subject: held.grant.record.subject.clone(),
            justification: self.justification.clone(),
            ticket: self.ticket.clone(),
            grant: Some(held.grant.id.clone()),
            ..draft(who, Kind::Extension, entitlement, duration, now)
        }
    }
}

/// What came of an extension.
#[derive(Debug)]
pub struct Extended {
    pub grant: Registered,
    pub request: Option<Request>,
}

/// The rows of a grant: what is registered, and its key.
pub(super) fn rows_of(id: &str) -> [Row; 2] {
    [Row::new(Table::Register, id), Row::new(Table::Grants, id)]
}

impl Desk {
    /// Gives access without a request.
    ///
    /// # Errors
    /// See [`DeskError`].
    pub async fn give(
        &self,
        who: &Identity,
        id: Option<GrantId>,
        record: GrantRecord,
        ttl: Duration,
    ) -> Result<Registered, DeskError> {
        self.check_caller(who)?;
        let id = id.map_or_else(new_grant_id, Ok)?;
        if ttl > self.limits.max_grant_ttl {
            return Err(DeskError::Store(StoreError::Invalid(Refusal::TtlTooLong)));
        }
        let decide = |look: &Look| {
            let admission = self.admission.current();
            let asking = self.asking(&admission, Some(who), look.now);
            let by_ttl = after(look.now, ttl);
            let expires = record.expires_at.map_or(by_ttl, |date| date.min(by_ttl));
            let mut grant = Registered::of_key(&id, record.clone(), look.now, expires);
            grant.record.id = Some(id.to_string());
            grant.requester = Some(who.subject.to_string());
            let about = About { grant: Some(&grant), ..About::default() };
            asking.require(Action::GrantCreate, about)?;
            if look.values.iter().any(Option::is_some) {
                let message = format!("a grant {id} exists, or has been; ids are never used again");
                return Err(DeskError::AlreadyExists(message));
            }
            if expires <= look.now {
                return Err(DeskError::Invalid("`expires_at` has passed".to_owned()));
            }
            let event = Event::new(EventType::GrantCreated, look.now).by(who).on_grant(&grant);
            let event = event.because(grant.record.justification.as_deref().unwrap_or_default());
            let mut plan = Plan::new(grant.clone(), giving::begin(&id, &grant, look.now)?, vec![event]);
            plan.unchanged.push((Row::new(Table::Grants, id.as_str()), None));
            Ok(plan)
        };
        Ok(self.change(&rows_of(id.as_str()), decide).await?.answer)
    }

    /// Takes access without anybody's approval, in an emergency.
    ///
    /// # Errors
    /// See [`DeskError`].
    pub async fn break_glass(
        &self,
        who: &Identity,
        entitlement: &str,
        reason: &str,
        duration: Option<Duration>,
        ticket: &str,
    ) -> Result<Registered, DeskError> {
        self.check_caller(who)?;
        let (reason, ticket) = (checked("reason", reason)?, checked("ticket", ticket)?);
        if reason.chars().count() < MIN_EMERGENCY_REASON {
            return Err(DeskError::Invalid(format!(
                "`reason` must say why, in at least {MIN_EMERGENCY_REASON} characters"
            )));
        }
        let id = new_grant_id()?;
        let decide = |look: &Look| {
            let admission = self.admission.current();
            let asking = self.asking(&admission, Some(who), look.now);
            let found = asking.entitlement(entitlement)?;
            let most = found.break_glass.max_ttl;
            let duration = asked_duration(duration, most, self.limits)?;
            let mut record = giving::record(found, &id, who.subject.as_str());
            record.break_glass = true;
            record.justification = Some(reason.clone());
            record.ticket = (!ticket.is_empty()).then(|| ticket.clone());
            let mut grant = Registered::of_key(&id, record, look.now, after(look.now, duration));
            grant.requester = Some(who.subject.to_string());
            grant.gives = Some(found.gives());
            let mut request = draft(who, Kind::Access, Some(found), duration, look.now);
            request.justification.clone_from(&reason);
            request.ticket.clone_from(&ticket);
            let about = About {
                entitlement: Some(found),
                request: Some(&request),
                grant: Some(&grant),
                ..About::default()
            };
            let terms = asking.require(Action::BreakGlass, about)?;
            self.known_locks()?.check(request.parties(), Some(&found.name))?;
            let duration = duration.min(most).min(terms.ttl.unwrap_or(most));
            grant.expires = after(look.now, duration);
            let event = |kind| Event::new(kind, look.now).by(who).on_grant(&grant).because(&reason);
            let skipped: Vec<&str> = found.approvers.iter().map(Principal::as_str).collect();
            let activated = event(EventType::BreakGlassActivated).with("skipped_approvers", &skipped);
            let events = vec![activated, event(EventType::GrantCreated)];
            Ok(Plan::new(grant.clone(), giving::begin(&id, &grant, look.now)?, events))
        };
        let grant = self.change(&rows_of(id.as_str()), decide).await?.answer;
        tracing::warn!(
            grant = grant.id,
            subject = grant.record.subject,
            entitlement,
            "break glass: {reason:?}"
        );
        Ok(grant)
    }

    /// Asks for more time, or gives it where nobody has to agree.
    ///
    /// # Errors
    /// See [`DeskError`].
    pub async fn extend(&self, who: &Identity, mut ask: Extend) -> Result<Extended, DeskError> {
        self.check_caller(who)?;
        ask.justification = checked("justification", &ask.justification)?;
        ask.ticket = checked("ticket", &ask.ticket)?;
        let asked = format!("extend {} {:?} {:?} {:?}", ask.id, ask.duration, ask.justification, ask.ticket);
        let call = CallRow::new(who, ask.call.as_deref(), &asked)?;
        let id: GrantId = ask.id.parse().map_err(|_| DeskError::NotFound("grant"))?;
        self.check_pending(who).await?;
        let rows: Vec<Row> =
            rows_of(id.as_str()).into_iter().chain(call.as_ref().map(CallRow::row)).collect();
        let decide = |look: &Look| {
            if let Some(made) = call.as_ref().map(|call| call.made(look, 2)).transpose()?.flatten() {
                return Ok(Plan::nothing(Some(Asked::Before(made))));
            }
            let admission = self.admission.current();
            let asking = self.asking(&admission, Some(who), look.now);
            let held = self.visible_grant(&asking, look)?;
            match held.grant.record.entitlement.clone() {
                None => self.extend_directly(&asking, held, &ask, call.as_ref()),
                Some(_) if held.grant.record.break_glass => Err(DeskError::State(
                    "what was taken in an emergency is not extended; ask for access".to_owned(),
                )),
                Some(name) => {
                    let plan = self.decide_extension(&asking, &name, held, &ask)?;
                    Ok(remembered(plan, call.as_ref())?.map(Some))
                }
            }
        };
        let request = match self.change(&rows, decide).await?.answer {
            None => None,
            Some(Asked::Made(request)) => Some(*request),
            Some(Asked::Before(made)) if made.is_empty() => None,
            Some(Asked::Before(made)) => Some(self.request(who, &made).await?.request),
        };
        let grant = self.grant(who, id.as_str()).await?.grant;
        Ok(Extended { grant, request })
    }

    fn visible_grant(&self, asking: &Asking<'_>, look: &Look) -> Result<Held, DeskError> {
        if let Some(grant) = read_if_any::<Registered>(look, 0)? {
            self.see_grant(asking, &grant)?;
        }
        Held::read(look, 0)
    }

    /// Of a grant that nobody asked for there is nobody who could agree: who may give it may extend it.
    fn extend_directly(
        &self,
        asking: &Asking<'_>,
        mut held: Held,
        ask: &Extend,
        call: Option<&CallRow>,
    ) -> Result<Plan<Option<Asked>>, DeskError> {
        let who = asking.who.ok_or_else(|| DeskError::Invalid("nobody asks".to_owned()))?;
        let request = ask.draft(who, None, &held, ask.duration, asking.now);
        let about = About { request: Some(&request), grant: Some(&held.grant), ..About::default() };
        asking.require(Action::GrantExtend, about)?;
        self.known_locks()?.check(request.parties(), None)?;
        let before = held.grant.expires;
        let mut writes = giving::extend(&mut held, ask.duration, self.limits.max_grant_ttl, asking.now)?;
        writes.extend(call.map(|call| call.write("")).transpose()?);
        let event = Event::new(EventType::GrantExtended, asking.now).by(who).on_grant(&held.grant);
        let event = event.because(&ask.justification).with("expired_at", &before);
        let mut plan = Plan::new(None, writes, vec![event]);
        plan.unchanged.push((Row::new(Table::Grants, held.grant.id), Some(held.key)));
        plan.before = Some(before);
        Ok(plan)
    }

    fn decide_extension(
        &self,
        asking: &Asking<'_>,
        name: &str,
        held: Held,
        ask: &Extend,
    ) -> Result<Plan<Request>, DeskError> {
        let who = asking.who.ok_or_else(|| DeskError::Invalid("nobody asks".to_owned()))?;
        let entitlement = asking.entitlement(name)?;
        let now = asking.now;
        let duration = asked_duration(Some(ask.duration), ask.duration, self.limits)?;
        let mut request = ask.draft(who, Some(entitlement), &held, duration, now);
        if held.grant.gives.as_ref() != Some(&request.gives) {
            return Err(DeskError::State(format!(
                "what {name} gives has changed since this grant; ask for a new one"
            )));
        }
        let about = About {
            entitlement: Some(entitlement),
            request: Some(&request),
            grant: Some(&held.grant),
            ..About::default()
        };
        let terms = asking.require(Action::GrantExtend, about)?;
        self.known_locks()?.check(request.parties(), Some(&request.entitlement))?;
        apply(&terms, &mut request, now);
        request.approve_by = request.approve_by.min(held.grant.expires);
        let created = Event::new(EventType::RequestCreated, now).by(who).on_request(&request);
        let created = described(created, &request);
        if request.approvals_required > 0 {
            return Ok(Plan::new(request.clone(), giving::put_request(&request, now, true)?, vec![created]));
        }
        request.reason = terms.note.unwrap_or_else(|| "nobody has to agree".to_owned());
        let mut plan = self.extension(entitlement, request, held, &[], now)?;
        plan.writes.extend(giving::put_request(&plan.answer, now, true)?);
        plan.events.insert(0, created);
        Ok(plan)
    }
}
