//! Every way to end grants before their time.
//!
//! Taking access away must not fail for want of a record: where the change cannot be written, the keys are deleted all
//! the same, and it is logged that nobody recorded it.

use serde_json::{Value, json};

use super::changes::{Plan, read_if_any};
use super::event::{Event, EventType};
use super::giving;
use super::grants::rows_of;
use super::model::{Registered, Standing};
use super::questions::{About, Action, Asking};
use super::{Desk, DeskError, checked, grant_id};
use crate::grant::GrantId;
use crate::principal::{Identity, Principal};
use crate::store::journal::{Index, Look, Row};
use crate::store::{GrantRecord, Revoked, StoreError};

/// Grants that one change ends: what a store can do in a few milliseconds.
const BATCH: usize = 100;
/// Grants that wait for their start: a week of them.
const MAX_SCHEDULED: usize = 100_000;

/// How a grant ends before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Revoked,
    Relinquished,
}

impl Ending {
    const fn standing(self) -> Standing {
        match self {
            Self::Revoked => Standing::Revoked,
            Self::Relinquished => Standing::Relinquished,
        }
    }

    const fn event(self) -> EventType {
        match self {
            Self::Revoked => EventType::GrantRevoked,
            Self::Relinquished => EventType::GrantRelinquished,
        }
    }

    const fn action(self) -> Action {
        match self {
            Self::Revoked => Action::GrantRevoke,
            Self::Relinquished => Action::GrantRelinquish,
        }
    }
}

/// Which grants, or which locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Principal(Principal),
    Entitlement(String),
    Everything,
}

impl Target {
    /// What policy is told of it.
    #[must_use]
    pub fn question(&self) -> Value {
        match self {
            Self::Principal(principal) => json!({"principal": principal.as_str()}),
            Self::Entitlement(name) => json!({"entitlement": name}),
            Self::Everything => json!({"everything": true}),
        }
    }

    fn takes(&self, record: &GrantRecord) -> bool {
        match self {
            Self::Principal(principal) => record.subject == principal.as_str(),
            Self::Entitlement(name) => record.entitlement.as_ref() == Some(name),
            Self::Everything => true,
        }
    }
}

impl Desk {
    /// Ends one grant before its time.
    ///
    /// # Errors
    /// See [`DeskError`].
    pub async fn end(
        &self,
        who: &Identity,
        id: &str,
        ending: Ending,
        reason: &str,
    ) -> Result<Revoked, DeskError> {
        let reason = checked("reason", reason)?;
        let id = grant_id(id)?;
        let decide = |look: &Look| {
            let admission = self.admission.current();
            let asking = self.asking(&admission, Some(who), look.now);
            let grant = open_grant(look, 0, &id)?;
            self.see_grant(&asking, &grant)?;
            if !grant.standing.is_open() {
                return Err(DeskError::State(format!("the grant is {} already", grant.standing.as_str())));
            }
            let entitlement =
                grant.record.entitlement.as_deref().and_then(|name| admission.entitlements().get(name));
            let about = About { entitlement, grant: Some(&grant), ..About::default() };
            asking.require(ending.action(), about)?;
            ended(&asking, grant, &id, ending, &reason).map(|plan| plan.map(|()| ()))
        };
        match self.change(&rows_of(id.as_str()), decide).await {
            Ok(done) => Ok(Revoked { ids: vec![id], replicas: done.replicas, replicated: done.replicated }),
            Err(error) => self.end_unrecorded(vec![id], error).await,
        }
    }

    /// The last resort. These errors come after policy has said that they may be ended.
    pub(super) async fn end_unrecorded(
        &self,
        ids: Vec<GrantId>,
        error: DeskError,
    ) -> Result<Revoked, DeskError> {
        let cannot_be_written = matches!(
            error,
            DeskError::Contended | DeskError::Unwritten(StoreError::Refused(_) | StoreError::NotNow(_))
        );
        if !cannot_be_written {
            return Err(error);
        }
        tracing::error!("grants are ended without a record, which could not be written: {error}");
        Ok(self.store.revoke(ids).await?)
    }

    /// Ends all grants of a subject, of an entitlement, or all there are; or only says which.
    ///
    /// # Errors
    /// See [`DeskError`]. Some of them may have ended.
    pub async fn end_all(
        &self,
        who: &Identity,
        target: &Target,
        reason: &str,
        validate_only: bool,
    ) -> Result<Revoked, DeskError> {
        let reason = checked("reason", reason)?;
        let question = target.question();
        let may = |now| {
            let admission = self.admission.current();
            let about = About { target: Some(&question), ..About::default() };
            self.asking(&admission, Some(who), now).require(Action::GrantRevokeAll, about).map(|_| ())
        };
        may(self.store.look(&[]).await?.now)?;
        let ids = self.all_open(target).await?;
        let mut all = Revoked { ids, ..Revoked::default() };
        if validate_only {
            return Ok(all);
        }
        let ids = std::mem::take(&mut all.ids);
        for batch in ids.chunks(BATCH) {
            let rows: Vec<Row> = batch.iter().flat_map(|id| rows_of(id.as_str())).collect();
            let decide = |look: &Look| {
                may(look.now)?;
                let admission = self.admission.current();
                let asking = self.asking(&admission, Some(who), look.now);
                let mut plan = Plan::nothing(Vec::new());
                for (index, id) in batch.iter().enumerate() {
                    match open_grant(look, 2 * index, id) {
                        Ok(grant) if grant.standing.is_open() => {
                            let Plan { writes, events, .. } =
                                ended(&asking, grant, id, Ending::Revoked, &reason)?;
                            plan.writes.extend(writes);
                            plan.events.extend(events);
                            plan.answer.push(id.clone());
                        }
                        // It has ended meanwhile.
                        Ok(_) | Err(DeskError::NotFound(_)) => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(plan)
            };
            let ended = match self.change(&rows, decide).await {
                Ok(done) => {
                    Revoked { ids: done.answer, replicas: done.replicas, replicated: done.replicated }
                }
                Err(error) => self.end_unrecorded(batch.to_vec(), error).await?,
            };
            all.ids.extend(ended.ids);
            all.replicas = ended.replicas;
            all.replicated = ended.replicated;
        }
        Ok(all)
    }

    /// Every grant that lives or is scheduled: keys that others wrote are among them.
    async fn all_open(&self, target: &Target) -> Result<Vec<GrantId>, DeskError> {
        let subject = match target {
            Target::Principal(principal) => Some(principal),
            Target::Entitlement(_) | Target::Everything => None,
        };
        let mut ids: Vec<GrantId> = Vec::new();
        for stored in self.store.list(subject).await? {
            if target.takes(&stored.record) {
                ids.push(stored.id);
            }
        }
        for grant in self.scheduled().await? {
            if target.takes(&grant.record) {
                ids.extend(grant.id.parse::<GrantId>().ok());
            }
        }
        ids.sort();
        ids.dedup();
        Ok(ids)
    }

    async fn scheduled(&self) -> Result<Vec<Registered>, DeskError> {
        let ids = self.store.scan(&Index::Scheduled, None, MAX_SCHEDULED).await?;
        let registered = self.registered(ids.into_iter().map(|(_, id)| id)).await?;
        Ok(registered.into_iter().filter(|grant| grant.standing == Standing::Scheduled).collect())
    }
}

/// What is known of a grant: its entry in the register, or what its key says if somebody wrote only that.
pub(super) fn open_grant(look: &Look, index: usize, id: &GrantId) -> Result<Registered, DeskError> {
    if let Some(grant) = read_if_any::<Registered>(look, index)? {
        return Ok(grant);
    }
    let record = read_if_any::<GrantRecord>(look, index + 1).ok().flatten();
    let has_key = look.values.get(index + 1).is_some_and(Option::is_some);
    match record {
        Some(record) => Ok(Registered::of_key(id, record, look.now, look.now)),
        // A key that holds no grant gives nothing, and whoever may end it may remove it.
        None if has_key => Ok(Registered::of_key(id, GrantRecord::default(), look.now, look.now)),
        None => Err(DeskError::NotFound("grant")),
    }
}

/// One grant ended, as a plan.
pub(super) fn ended(
    asking: &Asking<'_>,
    mut grant: Registered,
    id: &GrantId,
    ending: Ending,
    reason: &str,
) -> Result<Plan<()>, DeskError> {
    grant.standing = ending.standing();
    grant.ended_by = asking.who.map(|who| who.subject.to_string());
    reason.clone_into(&mut grant.end_reason);
    let mut event = Event::new(ending.event(), asking.now).on_grant(&grant).because(reason);
    if let Some(who) = asking.who {
        event = event.by(who);
    }
    Ok(Plan::new((), giving::end(id, &grant, asking.now)?, vec![event]))
}
