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
use crate::clock::Clock;
use crate::grant::GrantId;
use crate::principal::{Identity, Principal};
use crate::store::journal::{Index, Look, Row};
use crate::store::{GrantRecord, Revoked};

/// Grants that one change ends: what a store can do in a few milliseconds.
const BATCH: usize = 100;

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

/// What is known of a grant when it is to be ended.
struct Found {
    grant: Registered,
    has_key: bool,
}

impl Found {
    /// Its entry in the register, or what its key says. An entry that cannot be read keeps nothing alive.
    fn read(look: &Look, index: usize, id: &GrantId) -> Result<Self, DeskError> {
        let has_key = look.values.get(index + 1).is_some_and(Option::is_some);
        if let Ok(Some(grant)) = read_if_any::<Registered>(look, index) {
            return Ok(Self { grant, has_key });
        }
        let has_entry = look.values.get(index).is_some_and(Option::is_some);
        if !has_entry && !has_key {
            return Err(DeskError::NotFound("grant"));
        }
        // A key that holds no grant gives nothing, and whoever may end grants may remove it.
        let record = read_if_any::<GrantRecord>(look, index + 1).ok().flatten().unwrap_or_default();
        Ok(Self { grant: Registered::of_key(id, record, look.now, look.now), has_key })
    }

    /// A key that is there can be ended, whatever the register says: others write keys too.
    fn is_open(&self) -> bool {
        self.has_key || self.grant.standing.is_open()
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
        if ending == Ending::Revoked {
            self.check_caller(who)?;
        }
        let reason = checked("reason", reason)?;
        let id = grant_id(id)?;
        let decide = |look: &Look| {
            let admission = self.admission.current();
            let asking = self.asking(&admission, Some(who), look.now);
            let found = Found::read(look, 0, &id)?;
            self.see_grant(&asking, &found.grant)?;
            if !found.is_open() {
                let standing = found.grant.standing.as_str();
                return Err(DeskError::State(format!("the grant is {standing} already")));
            }
            may_end(&asking, &found.grant, ending)?;
            ended(&asking, found.grant, &id, ending, &reason)
        };
        let error = match self.change_at_once(&rows_of(id.as_str()), decide).await {
            Ok(done) => {
                return Ok(Revoked { ids: vec![id], replicas: done.replicas, replicated: done.replicated });
            }
            Err(error) => error,
        };
        if let DeskError::Store(_) = &error {
            // The store cannot even be looked at. What the replica has of the grant is enough to decide by.
            let Some(held) = self.replica.get(id.as_str()) else { return Err(error) };
            let now = Clock::System.now().wall;
            let record = serde_json::from_str(&held.document).unwrap_or_default();
            let grant = Registered::of_key(&id, record, now, held.lifetime.expires_at);
            let admission = self.admission.current();
            let asking = self.asking(&admission, Some(who), now);
            self.see_grant(&asking, &grant)?;
            may_end(&asking, &grant, ending)?;
        }
        self.end_unrecorded(vec![id], error).await
    }

    /// The last resort, where policy has said that they may be ended, and the store cannot write it as it should: their
    /// keys go all the same, and what could not be reached is asked for again later.
    async fn end_unrecorded(&self, ids: Vec<GrantId>, error: DeskError) -> Result<Revoked, DeskError> {
        if !matches!(error, DeskError::Contended | DeskError::Unwritten(_) | DeskError::Store(_)) {
            return Err(error);
        }
        tracing::error!("grants are ended without a record, which could not be written: {error}");
        let revoked = self.store.revoke(ids.clone()).await?;
        // A grant that is scheduled has no key that could be deleted.
        let left = ids.len() > revoked.ids.len() && self.is_any_scheduled(&ids).await.unwrap_or(true);
        if left { Err(error) } else { Ok(revoked) }
    }

    async fn is_any_scheduled(&self, ids: &[GrantId]) -> Result<bool, DeskError> {
        let registered = self.registered(ids.iter().map(ToString::to_string)).await?;
        Ok(registered.iter().any(|grant| grant.standing == Standing::Scheduled))
    }

    /// Ends all grants of a subject, of an entitlement, or all there are; or only says which.
    ///
    /// # Errors
    /// See [`DeskError`]. Some of them may have ended; one that cannot be ended keeps no other alive.
    pub async fn end_all(
        &self,
        who: &Identity,
        target: &Target,
        reason: &str,
        validate_only: bool,
    ) -> Result<Revoked, DeskError> {
        let is_own = matches!(target, Target::Principal(principal) if *principal == who.subject);
        if !is_own {
            self.check_caller(who)?;
        }
        let reason = checked("reason", reason)?;
        let question = target.question();
        let may = |now| {
            let admission = self.admission.current();
            let about = About { target: Some(&question), ..About::default() };
            self.asking(&admission, Some(who), now).require(Action::GrantRevokeAll, about).map(|_| ())
        };
        may(self.store.look(&[]).await?.now)?;
        let (ids, mut failed) = self.all_open(target).await?;
        let mut all = Revoked::default();
        if validate_only {
            return failed.map_or(Ok(Revoked { ids, ..all }), Err);
        }
        for batch in ids.chunks(BATCH) {
            let rows: Vec<Row> = batch.iter().flat_map(|id| rows_of(id.as_str())).collect();
            let decide = |look: &Look| {
                may(look.now)?;
                let admission = self.admission.current();
                let asking = self.asking(&admission, Some(who), look.now);
                let mut plan = Plan::nothing(Vec::new());
                for (index, id) in batch.iter().enumerate() {
                    match Found::read(look, 2 * index, id) {
                        Ok(found) if found.is_open() => {
                            let one = ended(&asking, found.grant, id, Ending::Revoked, &reason)?;
                            plan.writes.extend(one.writes);
                            plan.events.extend(one.events);
                            plan.answer.push(id.clone());
                        }
                        // It has ended meanwhile.
                        Ok(_) | Err(_) => {}
                    }
                }
                Ok(plan)
            };
            let ended = match self.change_at_once(&rows, decide).await {
                Ok(done) => {
                    Ok(Revoked { ids: done.answer, replicas: done.replicas, replicated: done.replicated })
                }
                Err(error) => self.end_unrecorded(batch.to_vec(), error).await,
            };
            match ended {
                Ok(ended) => {
                    all.ids.extend(ended.ids);
                    all.replicas = ended.replicas;
                    all.replicated = ended.replicated;
                }
                Err(error) => {
                    tracing::error!(grants = batch.len(), "grants could not be ended: {error}");
                    failed.get_or_insert(error);
                }
            }
        }
        failed.map_or(Ok(all), Err)
    }

    /// Every grant that lives or is scheduled: keys that others wrote are among them. If those that are scheduled cannot be
    /// read, why.
    async fn all_open(&self, target: &Target) -> Result<(Vec<GrantId>, Option<DeskError>), DeskError> {
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
        let (scheduled, failed) = match self.entered(&Index::Scheduled).await {
            Ok(scheduled) => (scheduled, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        for grant in scheduled {
            if grant.standing == Standing::Scheduled && target.takes(&grant.record) {
                ids.extend(grant.id.parse::<GrantId>().ok());
            }
        }
        ids.sort();
        ids.dedup();
        Ok((ids, failed))
    }
}

fn may_end(asking: &Asking<'_>, grant: &Registered, ending: Ending) -> Result<(), DeskError> {
    let name = grant.record.entitlement.as_deref();
    let entitlement = name.and_then(|name| asking.admission.entitlements().get(name));
    let about = About { entitlement, grant: Some(grant), ..About::default() };
    asking.require(ending.action(), about).map(|_| ())
}

/// One grant ended, as a plan.
fn ended(
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
