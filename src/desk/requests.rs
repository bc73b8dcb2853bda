//! Asking: for access, and for more time.

use std::time::Duration;

use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::admission::Terms;
use super::changes::{Plan, read_if_any, write};
use super::event::{Event, EventType};
use super::model::{Kind, Party, Registered, Request, Standing, State};
use super::questions::{About, Action, Asking};
use super::{
    CALL_MEMORY, Desk, DeskError, HOUR, Limits, MAX_ASKS_PER_HOUR, MAX_PENDING, MAX_START_AHEAD, after,
    checked, giving, new_grant_id, new_id, until,
};
use crate::clock::Clock;
use crate::entitlement::Entitlement;
use crate::grant::GrantId;
use crate::principal::{Identity, Principal};
use crate::store::journal::{Index, Look, Row, Table, Write};

/// Policy may say how long a request waits; if it does not, this long.
const DEFAULT_APPROVE_WITHIN: Duration = Duration::from_secs(4 * 3600);
/// A start that lies behind by no more is now: clocks differ.
const START_LEEWAY: Duration = Duration::from_secs(60);

/// What somebody asks for.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    pub entitlement: String,
    /// Left out, the entitlement's default.
    pub duration: Option<Duration>,
    pub justification: String,
    pub ticket: String,
    pub not_before: Option<Timestamp>,
    /// Left out, the caller.
    pub subject: Option<Principal>,
    /// The caller's own name for the call.
    pub call: Option<String>,
    pub validate_only: bool,
}

/// What a caller has to do with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    Mine,
    CanReview,
    Reviewed,
}

/// Which request a call made, so that its repeat makes no other.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Call {
    request: String,
    /// Digest of what was asked for.
    asked: String,
}

/// The row of a call, and what it asks for.
pub(super) struct CallRow {
    row: Row,
    asked: String,
}

impl CallRow {
    pub(super) fn new(who: &Identity, call: Option<&str>, asked: &str) -> Result<Option<Self>, DeskError> {
        let Some(call) = call else { return Ok(None) };
        // As an id is: it is one, of the caller's own making.
        let _: GrantId =
            call.parse().map_err(|error| DeskError::Invalid(format!("`request_id`: {error}")))?;
        let id = hex(&format!("{}\n{call}", who.subject));
        Ok(Some(Self { row: Row::new(Table::Calls, id), asked: hex(asked) }))
    }

    pub(super) fn row(&self) -> Row {
        self.row.clone()
    }

    /// The request that the call made before.
    pub(super) fn made(&self, look: &Look, index: usize) -> Result<Option<String>, DeskError> {
        match read_if_any::<Call>(look, index)? {
            None => Ok(None),
            Some(call) if call.asked == self.asked => Ok(Some(call.request)),
            Some(call) => Err(DeskError::AlreadyExists(format!(
                "this `request_id` asked for something else before, as {}",
                call.request
            ))),
        }
    }

    /// `request` is empty where the call made none.
    pub(super) fn write(&self, request: &str) -> Result<Write, DeskError> {
        let call = Call { request: request.to_owned(), asked: self.asked.clone() };
        Ok(Write::Put { row: self.row(), value: write(&call)?, keep: Some(CALL_MEMORY) })
    }
}

fn hex(text: &str) -> String {
    data_encoding::HEXLOWER.encode(digest(&SHA256, text.as_bytes()).as_ref())
}

/// Whether the request was made, or was there.
pub(super) enum Asked {
    Made(Box<Request>),
    Before(String),
}

impl Desk {
    /// Asks for access. Where nobody has to agree the answer is approved already.
    ///
    /// # Errors
    /// See [`DeskError`].
    pub async fn ask(&self, who: &Identity, mut ask: Ask) -> Result<Request, DeskError> {
        self.check_caller(who)?;
        ask.justification = checked("justification", &ask.justification)?;
        ask.ticket = checked("ticket", &ask.ticket)?;
        let call = CallRow::new(who, ask.call.as_deref(), &asked_text(&ask))?;
        let rows: Vec<Row> = call.iter().map(CallRow::row).collect();
        if !self.is_repeated(call.as_ref(), &rows).await? {
            self.check_pending(who).await?;
        }
        let decide = |look: &Look| {
            if let Some(made) = call.as_ref().map(|call| call.made(look, 0)).transpose()?.flatten() {
                return Ok(Plan::nothing(Asked::Before(made)));
            }
            let admission = self.admission.current();
            let asking = self.asking(&admission, Some(who), look.now);
            let plan = self.decide_ask(&asking, &ask)?;
            if ask.validate_only {
                // What is not there has no name.
                let trial = Request { id: String::new(), grant: None, ..plan.answer };
                return Ok(Plan::nothing(Asked::Made(Box::new(trial))));
            }
            remembered(plan, call.as_ref())
        };
        match self.change(&rows, decide).await?.answer {
            Asked::Made(request) => Ok(*request),
            Asked::Before(id) => self.request(who, &id).await.map(|seen| seen.request),
        }
    }

    fn decide_ask(&self, asking: &Asking<'_>, ask: &Ask) -> Result<Plan<Request>, DeskError> {
        let who = asking.who.ok_or_else(|| DeskError::Invalid("nobody asks".to_owned()))?;
        let entitlement = asking.entitlement(&ask.entitlement)?;
        let now = asking.now;
        let subject = ask.subject.as_ref().unwrap_or(&who.subject).to_string();
        let duration = asked_duration(ask.duration, entitlement.default_ttl, self.limits)?;
        let mut request = Request {
            subject,
            not_before: start(ask.not_before, now)?,
            ..draft(who, Kind::Access, Some(entitlement), duration, now)
        };
        request.justification.clone_from(&ask.justification);
        request.ticket.clone_from(&ask.ticket);
        let about = About { entitlement: Some(entitlement), request: Some(&request), ..About::default() };
        let terms = asking.require(Action::RequestCreate, about)?;
        // After policy: nobody learns of locks by asking for others.
        self.known_locks()?.check(request.parties(), Some(&request.entitlement))?;
        apply(&terms, &mut request, now);
        if let Some(start) = request.not_before {
            request.approve_by = request.approve_by.min(after(start, request.narrowed()));
        }
        let created = Event::new(EventType::RequestCreated, now).by(who).on_request(&request);
        let created = described(created, &request);
        if request.approvals_required > 0 {
            return Ok(Plan::new(request.clone(), giving::put_request(&request, now, true)?, vec![created]));
        }
        request.reason = terms.note.unwrap_or_else(|| "nobody has to agree".to_owned());
        let mut plan = self.approved(entitlement, request, &[], now, EventType::RequestAutoApproved)?;
        plan.writes.extend(giving::put_request(&plan.answer, now, true)?);
        plan.events.insert(0, created);
        plan.events
            .iter_mut()
            .for_each(|event| event.evidence.clone_from(&Some(who.evidence.as_str().to_owned())));
        Ok(plan)
    }

    /// What an approval comes to: the request is decided, and its grant begins. The request itself is not among the
    /// writes.
    pub(super) fn approved(
        &self,
        entitlement: &Entitlement,
        mut request: Request,
        persons: &[&str],
        now: Timestamp,
        event: EventType,
    ) -> Result<Plan<Request>, DeskError> {
        let id = new_grant_id()?;
        let duration = request.narrowed().min(self.limits.max_grant_ttl);
        let starts = request.not_before.map_or(now, |start| start.max(now));
        request.state = State::Approved;
        request.decided = Some(now);
        request.granted = Some(duration);
        request.grant = Some(id.to_string());
        let grant = Registered {
            id: id.to_string(),
            standing: if starts > now { Standing::Scheduled } else { Standing::Active },
            record: giving::record_of(entitlement, &id, &request, persons),
            requester: Some(request.requester.name.clone()),
            gives: Some(request.gives.clone()),
            created: now,
            starts,
            expires: after(starts, duration),
            extensions: 0,
            is_exhausted: false,
            ended_by: None,
            end_reason: String::new(),
        };
        let begun = if starts > now { EventType::GrantScheduled } else { EventType::GrantCreated };
        let approved = Event::new(event, now).on_request(&request).because(&request.reason);
        let approved = approved.with("approved_by", &persons).with("expires_at", &grant.expires);
        let events = vec![approved, Event::new(begun, now).on_grant(&grant).with("starts_at", &grant.starts)];
        Ok(Plan::new(request, giving::begin(&id, &grant, now)?, events))
    }

    /// Whether the call was made before: then it makes nothing, and no limit is in its way.
    pub(super) async fn is_repeated(&self, call: Option<&CallRow>, rows: &[Row]) -> Result<bool, DeskError> {
        match (call, rows.last()) {
            (Some(call), Some(row)) => {
                let look = self.store.look(std::slice::from_ref(row)).await?;
                Ok(call.made(&look, 0)?.is_some())
            }
            _ => Ok(false),
        }
    }

    /// A loop that asks and asks must not fill the store.
    pub(super) async fn check_pending(&self, who: &Identity) -> Result<(), DeskError> {
        let index = Index::PendingOf(who.subject.to_string());
        let pending = self.store.scan(&index, None, MAX_PENDING).await?;
        if pending.len() >= MAX_PENDING {
            return Err(too_many_pending());
        }
        let index = Index::Of(who.subject.to_string());
        let asked = self.store.scan(&index, None, MAX_ASKS_PER_HOUR).await?;
        let hour_ago =
            Clock::System.now().wall.as_millisecond() - i64::try_from(HOUR.as_millis()).unwrap_or(i64::MAX);
        let is_loop = asked.len() >= MAX_ASKS_PER_HOUR && asked.last().is_some_and(|(at, _)| *at > hour_ago);
        if is_loop {
            return Err(DeskError::Full(format!(
                "{MAX_ASKS_PER_HOUR} requests of yours in an hour are enough; wait"
            )));
        }
        Ok(())
    }
}

fn too_many_pending() -> DeskError {
    DeskError::Full(format!("{MAX_PENDING} requests of yours are pending; withdraw some, or wait for them"))
}

impl<'a> Asking<'a> {
    /// An entitlement that the caller may know of.
    pub(super) fn entitlement(&self, name: &str) -> Result<&'a Entitlement, DeskError> {
        let found = self.admission.entitlements().get(name);
        let entitlement = found.ok_or(DeskError::NotFound("entitlement"))?;
        let about = About { entitlement: Some(entitlement), ..About::default() };
        self.see(Action::EntitlementView, about, "entitlement").map(|()| entitlement)
    }
}

/// A request of `who` for itself, before policy has said anything of it.
pub(super) fn draft(
    who: &Identity,
    kind: Kind,
    entitlement: Option<&Entitlement>,
    duration: Duration,
    now: Timestamp,
) -> Request {
    let of = |text: fn(&Entitlement) -> String| entitlement.map(text).unwrap_or_default();
    let approvers =
        entitlement.map(|entitlement| entitlement.approvers.iter().map(ToString::to_string).collect());
    Request {
        id: new_id("r"),
        kind,
        state: State::Pending,
        entitlement: of(|entitlement| entitlement.name.clone()),
        revision: of(|entitlement| entitlement.revision.clone()),
        gives: of(Entitlement::gives),
        requester: Party::of(who),
        subject: who.subject.to_string(),
        justification: String::new(),
        ticket: String::new(),
        duration: Some(duration),
        granted: None,
        not_before: None,
        approve_by: after(now, DEFAULT_APPROVE_WITHIN),
        created: now,
        decided: None,
        approvals_required: 0,
        reviews: Vec::new(),
        grant: None,
        reason: String::new(),
        approvers: approvers.unwrap_or_default(),
    }
}

/// The plan of a request, with the call that made it.
pub(super) fn remembered(plan: Plan<Request>, call: Option<&CallRow>) -> Result<Plan<Asked>, DeskError> {
    let call = call.map(|call| call.write(&plan.answer.id)).transpose()?;
    let mut plan = plan.map(|request| Asked::Made(Box::new(request)));
    plan.writes.extend(call);
    Ok(plan)
}

/// What policy made of a request that is being asked.
pub(super) fn apply(terms: &Terms, request: &mut Request, now: Timestamp) {
    request.approvals_required = terms.approvals_required;
    request.approve_by = after(now, terms.approve_within.unwrap_or(DEFAULT_APPROVE_WITHIN));
    if let Some(ttl) = terms.ttl {
        request.duration = request.duration.map(|asked| asked.min(ttl));
    }
}

pub(super) fn described(event: Event, request: &Request) -> Event {
    let event =
        event.because(&request.justification).with("duration_s", &super::model::seconds(request.narrowed()));
    let event =
        event.with("approvals_required", &request.approvals_required).with("approve_by", &request.approve_by);
    if request.ticket.is_empty() { event } else { event.with("ticket", &request.ticket) }
}

pub(super) fn asked_duration(
    asked: Option<Duration>,
    default: Duration,
    limits: Limits,
) -> Result<Duration, DeskError> {
    let duration = asked.unwrap_or(default);
    if duration < Duration::from_secs(1) {
        return Err(DeskError::Invalid("`duration` is less than a second".to_owned()));
    }
    if duration > limits.max_grant_ttl {
        return Err(DeskError::Invalid(format!(
            "`duration` is longer than any grant: {:?}",
            limits.max_grant_ttl
        )));
    }
    Ok(duration)
}

fn start(not_before: Option<Timestamp>, now: Timestamp) -> Result<Option<Timestamp>, DeskError> {
    let Some(start) = not_before else { return Ok(None) };
    if until(start, now) > START_LEEWAY {
        return Err(DeskError::Invalid(format!("`not_before` has passed: {start}")));
    }
    if until(now, start) > MAX_START_AHEAD {
        return Err(DeskError::Invalid("`not_before` is more than 7 days ahead".to_owned()));
    }
    Ok((start > now).then_some(start))
}

/// What tells one ask from another.
fn asked_text(ask: &Ask) -> String {
    let Ask { entitlement, duration, justification, ticket, not_before, subject, call: _, validate_only: _ } =
        ask;
    format!("{entitlement:?} {duration:?} {justification:?} {ticket:?} {not_before:?} {subject:?}")
}
