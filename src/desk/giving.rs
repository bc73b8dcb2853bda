//! From a decision to what is written: how a grant begins, gets longer and ends. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::changes::{parse, read, write};
use super::model::{Registered, Request, Standing, seconds};
use super::{DeskError, after, until};
use crate::entitlement::Entitlement;
use crate::grant::GrantId;
use crate::permission::PermissionLists;
use crate::store::GrantRecord;
use crate::store::journal::{Index, KEEP, Look, Row, Table, Write};
use crate::store::record::{Approvers, ConditionsRecord, PermissionRecord, VERSION};

/// Something whose moment comes by itself, as it stands in the list of what is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moment {
    /// A scheduled grant begins.
    Start(String),
    /// A grant has run its time.
    End(String),
    /// Nobody decided a request.
    Expiry(String),
    /// A lock has run its time.
    LockEnd(String),
}

impl Moment {
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Start(id) => format!("start:{id}"),
            Self::End(id) => format!("end:{id}"),
            Self::Expiry(id) => format!("expire:{id}"),
            Self::LockEnd(id) => format!("lock:{id}"),
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, id) = text.split_once(':')?;
        let id = id.to_owned();
        Some(match kind {
            "start" => Self::Start(id),
            "end" => Self::End(id),
            "expire" => Self::Expiry(id),
            "lock" => Self::LockEnd(id),
            _ => return None,
        })
    }

    #[must_use]
    pub fn at(&self, at: Timestamp) -> Write {
        Write::Due { what: self.text(), at }
    }

    #[must_use]
    pub fn never(&self) -> Write {
        Write::NotDue(self.text())
    }
}

/// What an entitlement gives to `subject`.
#[must_use]
pub fn record(entitlement: &Entitlement, id: &GrantId, subject: &str) -> GrantRecord {
    GrantRecord {
        v: VERSION,
        id: Some(id.to_string()),
        subject: subject.to_owned(),
        permissions: entitlement.permissions.iter().map(permission).collect(),
        max_uses: entitlement.max_uses,
        conditions: (!entitlement.source_cidrs.is_empty())
            .then(|| ConditionsRecord { source_cidrs: entitlement.source_cidrs.clone() }),
        roles: entitlement.roles.clone(),
        attributes: (!entitlement.attributes.is_empty()).then(|| entitlement.attributes.clone()),
        entitlement: Some(entitlement.name.clone()),
        ..GrantRecord::default()
    }
}

fn permission(lists: &PermissionLists) -> PermissionRecord {
    let PermissionLists { hosts, methods, paths, grpc_methods } = lists.clone();
    PermissionRecord { hosts, methods, paths, grpc_methods }
}

/// The same, as a request asked for it and these persons agreed to it.
#[must_use]
pub fn record_of(
    entitlement: &Entitlement,
    id: &GrantId,
    request: &Request,
    persons: &[&str],
) -> GrantRecord {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    GrantRecord {
        request: Some(request.id.clone()),
        approved_by: Approvers::Many(persons.iter().map(|&person| person.to_owned()).collect()),
        justification: text(&request.justification),
        ticket: text(&request.ticket),
        ..record(entitlement, id, &request.subject)
    }
}

/// Puts a grant into the register, and gives it now or has it begin later.
///
/// # Errors
/// It cannot be written as JSON.
pub fn begin(id: &GrantId, grant: &Registered, now: Timestamp) -> Result<Vec<Write>, DeskError> {
    let enter =
        |index| Write::Enter { index, id: grant.id.clone(), keep: Some(until(now, grant.expires) + KEEP) };
    let mut writes = vec![
        put(grant, now)?,
        enter(Index::Register),
        enter(Index::RegisterOf(grant.record.subject.clone())),
    ];
    if grant.record.max_uses.is_some() {
        writes.push(Write::Enter { index: Index::Limited, id: grant.id.clone(), keep: None });
    }
    if grant.standing == Standing::Scheduled {
        writes.push(Write::Enter { index: Index::Scheduled, id: grant.id.clone(), keep: None });
        writes.push(Moment::Start(grant.id.clone()).at(grant.starts));
    } else {
        writes.extend(give(id, grant, until(now, grant.expires))?);
    }
    Ok(writes)
}

/// Writes the key of a grant, for the time it has left.
///
/// # Errors
/// It cannot be written as JSON.
pub fn give(id: &GrantId, grant: &Registered, left: Duration) -> Result<[Write; 2], DeskError> {
    let record = write(&grant.record)?;
    Ok([Write::Grant { id: id.clone(), record, ttl: left }, Moment::End(grant.id.clone()).at(grant.expires)])
}

/// A grant that lives, and the text of its key.
#[derive(Debug)]
pub struct Held {
    pub grant: Registered,
    pub key: String,
}

impl Held {
    /// From the register, and the key in the row after it.
    ///
    /// # Errors
    /// There is no such grant, or it has ended.
    pub fn read(look: &Look, index: usize) -> Result<Self, DeskError> {
        let grant: Registered = read(look, index, "grant")?;
        let key = look.values.get(index + 1).cloned().flatten();
        match key {
            Some(key) if grant.standing.is_open() && look.now < grant.expires => Ok(Self { grant, key }),
            _ => Err(DeskError::State("the grant has ended, or has not begun".to_owned())),
        }
    }
}

/// Makes a grant longer. What its key says stands, also where somebody has narrowed it since; only the end moves.
///
/// # Errors
/// All its time together would be more than `cap`.
pub fn extend(
    held: &mut Held,
    longer: Duration,
    cap: Duration,
    now: Timestamp,
) -> Result<Vec<Write>, DeskError> {
    let mut record: GrantRecord = parse(&held.key)?;
    let grant = &mut held.grant;
    // From where it ends now, also where somebody has brought that forward.
    let ends = record.expires_at.map_or(grant.expires, |date| date.min(grant.expires));
    let expires = after(ends, longer);
    if until(grant.starts, expires) > cap {
        let left = cap.saturating_sub(until(grant.starts, ends));
        return Err(DeskError::State(format!(
            "all its time together may be {} seconds, so {} more at most",
            seconds(cap),
            seconds(left)
        )));
    }
    let id: GrantId = grant.id.parse().map_err(|_| DeskError::NotFound("grant"))?;
    record.expires_at = record.expires_at.map(|_| expires);
    grant.record = record;
    grant.expires = expires;
    grant.extensions += 1;
    let mut writes = vec![put(grant, now)?];
    writes.extend(give(&id, grant, until(now, expires))?);
    Ok(writes)
}

/// Ends a grant, whether it lives or is scheduled.
///
/// # Errors
/// It cannot be written as JSON.
pub fn end(id: &GrantId, grant: &Registered, now: Timestamp) -> Result<Vec<Write>, DeskError> {
    Ok(vec![
        Write::EndGrant(id.clone()),
        put(grant, now)?,
        Write::Leave { index: Index::Scheduled, id: grant.id.clone() },
        Write::Leave { index: Index::Limited, id: grant.id.clone() },
        Moment::Start(grant.id.clone()).never(),
        Moment::End(grant.id.clone()).never(),
    ])
}

/// Kept for as long as it lives, and then for [`KEEP`].
///
/// # Errors
/// It cannot be written as JSON.
pub fn put(grant: &Registered, now: Timestamp) -> Result<Write, DeskError> {
    let row = Row::new(Table::Register, grant.id.clone());
    Ok(Write::Put { row, value: write(grant)?, keep: Some(until(now, grant.expires) + KEEP) })
}

/// A request, in the indexes it belongs to. `is_new` ones enter those that all are in.
///
/// # Errors
/// It cannot be written as JSON.
pub fn put_request(request: &Request, now: Timestamp, is_new: bool) -> Result<Vec<Write>, DeskError> {
    use super::model::State;
    let row = Row::new(Table::Requests, request.id.clone());
    let keep = Some(until(now, request.approve_by) + KEEP);
    let mut writes = vec![Write::Put { row, value: write(request)?, keep }];
    let enter = |index, keep| Write::Enter { index, id: request.id.clone(), keep };
    let leave = |index| Write::Leave { index, id: request.id.clone() };
    if is_new {
        writes.push(enter(Index::Requests, keep));
        writes.push(enter(Index::Of(request.requester.name.clone()), keep));
        if request.is_for_others() {
            writes.push(enter(Index::Of(request.subject.clone()), keep));
        }
    }
    match (request.state, is_new) {
        (State::Pending, true) => {
            writes.push(enter(Index::Pending, None));
            writes.push(enter(Index::PendingOf(request.requester.name.clone()), None));
            writes.push(Moment::Expiry(request.id.clone()).at(request.approve_by));
        }
        (State::Pending, false) | (_, true) => {}
        (_, false) => {
            writes.push(leave(Index::Pending));
            writes.push(leave(Index::PendingOf(request.requester.name.clone())));
            writes.push(Moment::Expiry(request.id.clone()).never());
        }
    }
    Ok(writes)
}
