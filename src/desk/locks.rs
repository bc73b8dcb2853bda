//! Locks: who sets them, who takes them away, and what they stop here. What they stop at the proxies is the check path's.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::changes::{Plan, read_if_any, write};
use super::endings::Target;
use super::event::{Event, EventType};
use super::giving::Moment;
use super::model::Review;
use super::questions::{About, Action};
use super::{Desk, DeskError, after, checked, grant_id, new_id};
use crate::clock::Clock;
use crate::grant::GrantId;
use crate::lock::{self, Lock, LockTarget};
use crate::principal::Identity;
use crate::store::StoreError;
use crate::store::journal::{Look, Row, Table, Write};
use crate::store::record::{LockRecord, VERSION};

/// A lock as the API shows it.
#[derive(Debug, Clone)]
pub struct SeenLock {
    pub id: String,
    pub record: LockRecord,
}

impl Desk {
    /// # Errors
    /// See [`DeskError`].
    pub async fn lock(
        &self,
        who: &Identity,
        id: Option<GrantId>,
        target: &Target,
        message: &str,
        ttl: Duration,
    ) -> Result<SeenLock, DeskError> {
        self.check_caller(who)?;
        let message = checked("message", message)?;
        if message.is_empty() {
            return Err(DeskError::Invalid(
                "`message` is missing: whoever is denied must learn why".to_owned(),
            ));
        }
        if ttl.is_zero() || ttl > lock::MAX_TTL {
            return Err(DeskError::Invalid("`ttl` must be more than 0 and at most 366 days".to_owned()));
        }
        let id = id.map_or_else(|| grant_id(&new_id("l")), Ok)?;
        let row = Row::new(Table::Locks, id.as_str());
        let question = target.question();
        let decide = |look: &Look| {
            let admission = self.admission.current();
            let about = About { target: Some(&question), ..About::default() };
            self.asking(&admission, Some(who), look.now).require(Action::LockCreate, about)?;
            if look.values.first().is_some_and(Option::is_some) {
                return Err(DeskError::AlreadyExists(format!("there is a lock {id}")));
            }
            let expires = after(look.now, ttl);
            let record = LockRecord {
                v: VERSION,
                message: message.clone(),
                created_by: Some(who.subject.to_string()),
                created_at: Some(look.now),
                ..locked(target)
            };
            let event = Event::new(EventType::LockCreated, look.now).by(who).because(&message);
            let event = on_lock(event, &id, &record).with("expires_at", &expires);
            let record_text = write(&record)?;
            let writes = vec![
                Write::Lock { id: id.clone(), record: record_text, ttl },
                Moment::LockEnd(id.to_string()).at(expires),
            ];
            // Its key says when it ends. A date in it would be judged by the clocks of sidecars.
            let record = LockRecord { expires_at: Some(expires), ..record };
            let seen = SeenLock { id: id.to_string(), record };
            let mut plan = Plan::new(seen, writes, vec![event]);
            plan.unchanged.push((row.clone(), None));
            Ok(plan)
        };
        Ok(self.change_at_once(std::slice::from_ref(&row), decide).await?.answer)
    }

    /// # Errors
    /// There is no such lock, or policy says no.
    pub async fn unlock(&self, who: &Identity, id: &str) -> Result<SeenLock, DeskError> {
        self.check_caller(who)?;
        let id = grant_id(id)?;
        let row = Row::new(Table::Locks, id.as_str());
        let decide = |look: &Look| {
            let admission = self.admission.current();
            let asking = self.asking(&admission, Some(who), look.now);
            if look.values.first().is_none_or(Option::is_none) {
                return Err(DeskError::NotFound("lock"));
            }
            let target = read_if_any::<LockRecord>(look, 0)
                .ok()
                .flatten()
                .map_or_else(anything, |record| question(&record));
            let about = About { target: Some(&target), ..About::default() };
            asking.see(Action::LockView, about, "lock")?;
            asking.require(Action::LockDelete, about)?;
            // One that cannot be read locks everything, and must be removable.
            let record = read_if_any::<LockRecord>(look, 0).ok().flatten().unwrap_or_default();
            let event = Event::new(EventType::LockDeleted, look.now).by(who);
            let event = on_lock(event, &id, &record).because(&record.message);
            let writes = vec![Write::EndLock(id.clone()), Moment::LockEnd(id.to_string()).never()];
            Ok(Plan::new(SeenLock { id: id.to_string(), record }, writes, vec![event]))
        };
        Ok(self.change(std::slice::from_ref(&row), decide).await?.answer)
    }

    /// Locks that hold, by id, for those who may see them.
    ///
    /// # Errors
    /// Policy has failed, or the store cannot be read.
    pub async fn locks(&self, who: &Identity) -> Result<Vec<SeenLock>, DeskError> {
        let held = self.held_locks();
        let rows: Vec<Row> = held.iter().map(|lock| Row::new(Table::Locks, lock.id.to_string())).collect();
        let look = self.store.look(&rows).await?;
        let admission = self.admission.current();
        let asking = self.asking(&admission, Some(who), look.now);
        let mut seen = Vec::new();
        for (index, lock) in held.iter().enumerate() {
            // One that cannot be read, or that the store has not: what sidecars deny by is what is shown.
            let record =
                read_if_any::<LockRecord>(&look, index).ok().flatten().unwrap_or_else(|| as_held(lock));
            let record = LockRecord { expires_at: lock.expires_at(), ..record };
            let id = lock.id.to_string();
            let target = question(&record);
            if asking.allows(Action::LockView, About { target: Some(&target), ..About::default() })? {
                seen.push(SeenLock { id, record });
            }
        }
        Ok(seen)
    }

    /// By id.
    fn held_locks(&self) -> Vec<Arc<Lock>> {
        let now = Clock::System.now();
        self.replica.locks().into_iter().filter(|lock| !lock.lifetime.has_ended(now)).collect()
    }

    /// Whoever is locked does nothing here but give back and withdraw. What is known of locks is enough to refuse by.
    pub(super) fn check_caller(&self, who: &Identity) -> Result<(), DeskError> {
        let locked_by = self.replica.lock_on(&who.caller, Clock::System.now());
        locked_by.map_or(Ok(()), |lock| Err(DeskError::Denied(vec![format!("locked: {}", lock.message)])))
    }

    /// The locks there are, or that nobody knows them at the moment.
    pub(super) fn known_locks(&self) -> Result<Locks, DeskError> {
        let is_known =
            self.replica.freshness(Clock::System.now()).is_fresh() && !self.replica.is_lock_in_doubt();
        if is_known {
            return Ok(Locks(self.held_locks()));
        }
        Err(DeskError::Store(StoreError::NotNow("it is not known who is locked".to_owned())))
    }
}

/// The locks of one moment.
pub(super) struct Locks(Vec<Arc<Lock>>);

impl Locks {
    /// Nobody gets access past a lock, or helps anybody else to it.
    pub(super) fn check<'n>(
        &self,
        parties: impl IntoIterator<Item = &'n str>,
        entitlement: Option<&str>,
    ) -> Result<(), DeskError> {
        let locked = |lock: &Lock| Err(DeskError::Denied(vec![format!("locked: {}", lock.message)]));
        for lock in &self.0 {
            match &lock.target {
                LockTarget::Everything => return locked(lock),
                LockTarget::Entitlement(name) if entitlement == Some(&**name) => return locked(lock),
                LockTarget::Entitlement(_) | LockTarget::Principal(_) => {}
            }
        }
        match parties.into_iter().find_map(|party| self.on(party)) {
            Some(lock) => locked(lock),
            None => Ok(()),
        }
    }

    /// The approval of somebody who is locked by now does not count.
    pub(super) fn strike(&self, counting: &mut BTreeSet<String>, reviews: &[Review]) {
        for review in reviews {
            if review.reviewer.names().any(|name| self.on(name).is_some()) {
                counting.remove(&review.reviewer.name);
            }
        }
    }

    /// Whether somebody is locked.
    pub(super) fn on(&self, party: &str) -> Option<&Lock> {
        let is_on =
            |lock: &&Arc<Lock>| matches!(&lock.target, LockTarget::Principal(name) if name.as_str() == party);
        self.0.iter().find(is_on).map(Arc::as_ref)
    }
}

fn locked(target: &Target) -> LockRecord {
    match target {
        Target::Principal(principal) => {
            LockRecord { principal: Some(principal.to_string()), ..LockRecord::default() }
        }
        Target::Entitlement(name) => LockRecord { entitlement: Some(name.clone()), ..LockRecord::default() },
        Target::Everything => LockRecord { everything: Some(true), ..LockRecord::default() },
    }
}

fn as_held(lock: &Lock) -> LockRecord {
    let target = match &lock.target {
        LockTarget::Principal(principal) => Target::Principal(principal.clone()),
        LockTarget::Entitlement(name) => Target::Entitlement(name.to_string()),
        LockTarget::Everything => Target::Everything,
    };
    LockRecord { v: VERSION, message: lock.message.to_string(), ..locked(&target) }
}

/// What policy is told of a lock's target.
fn question(record: &LockRecord) -> Value {
    match (&record.principal, &record.entitlement) {
        (Some(principal), _) => json!({"principal": principal}),
        (None, Some(entitlement)) => json!({"entitlement": entitlement}),
        (None, None) => anything(),
    }
}

fn anything() -> Value {
    json!({"everything": true})
}

fn on_lock(mut event: Event, id: &GrantId, record: &LockRecord) -> Event {
    event.lock = Some(id.to_string());
    event.subject.clone_from(&record.principal);
    event.entitlement.clone_from(&record.entitlement);
    event
}
