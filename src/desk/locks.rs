//! Locks: who sets them, who takes them away, and what they stop here. What they stop at the proxies is the check path's.

use std::sync::Arc;
use std::time::Duration;

use super::changes::{Plan, read_if_any, write};
use super::endings::Target;
use super::event::{Event, EventType};
use super::giving::Moment;
use super::questions::{About, Action};
use super::{Desk, DeskError, after, checked, grant_id, new_id};
use crate::clock::Clock;
use crate::grant::GrantId;
use crate::lock::{self, Lock, LockTarget};
use crate::principal::Identity;
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
                expires_at: Some(expires),
                ..locked(target)
            };
            let event = Event::new(EventType::LockCreated, look.now).by(who).because(&message);
            let event = on_lock(event, &id, &record).with("expires_at", &expires);
            let record_text = write(&record)?;
            let writes = vec![
                Write::Lock { id: id.clone(), record: record_text, ttl },
                Moment::LockEnd(id.to_string()).at(expires),
            ];
            let seen = SeenLock { id: id.to_string(), record };
            let mut plan = Plan::new(seen, writes, vec![event]);
            plan.unchanged.push((row.clone(), None));
            Ok(plan)
        };
        Ok(self.change(std::slice::from_ref(&row), decide).await?.answer)
    }

    /// # Errors
    /// There is no such lock, or policy says no.
    pub async fn unlock(&self, who: &Identity, id: &str) -> Result<SeenLock, DeskError> {
        let id = grant_id(id)?;
        let row = Row::new(Table::Locks, id.as_str());
        let decide = |look: &Look| {
            let admission = self.admission.current();
            let asking = self.asking(&admission, Some(who), look.now);
            asking.see(Action::LockView, About::default(), "lock")?;
            if look.values.first().is_none_or(Option::is_none) {
                return Err(DeskError::NotFound("lock"));
            }
            asking.require(Action::LockDelete, About::default())?;
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
        let look = self.store.look(&[]).await?;
        let admission = self.admission.current();
        self.asking(&admission, Some(who), look.now).require(Action::LockView, About::default())?;
        let ids: Vec<String> = self.held_locks().iter().map(|lock| lock.id.to_string()).collect();
        let rows: Vec<Row> = ids.iter().map(|id| Row::new(Table::Locks, id.clone())).collect();
        let look = self.store.look(&rows).await?;
        let read = |(index, id): (usize, String)| {
            let record = read_if_any::<LockRecord>(&look, index);
            match record {
                Ok(record) => record.map(|record| SeenLock { id, record }),
                Err(_) => {
                    let message = "it cannot be read, and locks everything until it is removed".to_owned();
                    let record = LockRecord { everything: Some(true), message, ..LockRecord::default() };
                    Some(SeenLock { id, record })
                }
            }
        };
        Ok(ids.into_iter().enumerate().filter_map(read).collect())
    }

    /// By id.
    fn held_locks(&self) -> Vec<Arc<Lock>> {
        let now = Clock::System.now();
        self.replica.locks().into_iter().filter(|lock| !lock.lifetime.has_ended(now)).collect()
    }

    /// Nobody gets new access past a lock.
    pub(super) fn check_locks(&self, subject: &str, entitlement: Option<&String>) -> Result<(), DeskError> {
        let locks = self.held_locks();
        let holds = |target: &LockTarget| match target {
            LockTarget::Principal(principal) => principal.as_str() == subject,
            LockTarget::Entitlement(name) => {
                entitlement.is_some_and(|entitlement| entitlement.as_str() == &**name)
            }
            LockTarget::Everything => true,
        };
        match locks.iter().find(|lock| holds(&lock.target)) {
            Some(lock) => Err(DeskError::Denied(vec![format!("locked: {}", lock.message)])),
            None => Ok(()),
        }
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

fn on_lock(mut event: Event, id: &GrantId, record: &LockRecord) -> Event {
    event.lock = Some(id.to_string());
    event.subject.clone_from(&record.principal);
    event.entitlement.clone_from(&record.entitlement);
    event
}
