//! What nobody does through the desk and still belongs into its record: policies and entitlements that changed, grants
//! that were used up, a store that was away.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::changes::{Plan, read_if_any, write};
use super::event::{Event, EventType};
use super::giving;
use super::model::{Registered, Standing};
use super::{Desk, DeskError, until};
use crate::store::journal::{Index, Look, Row, Table, Write};

/// How often use-limited grants are looked at. Checks count and deny exactly; this is only when it is recorded.
const LIMITED_PERIOD: Duration = Duration::from_secs(5);
/// Of one look.
const MAX_LIMITED: usize = 500;
/// A store that was away for less was only slow.
const MIN_OUTAGE: Duration = Duration::from_secs(5);
/// Entitlements whose revisions are kept: of more, only that the policy is another.
const MAX_REVISIONS: usize = 1000;
/// What an event of policies names. The others are counted.
const MAX_UPDATES: usize = 100;

const POLICY_ROW: &str = "policy";

/// What was noted last.
#[derive(Debug, Default)]
pub struct Noting {
    revision: Option<String>,
    limited: Option<Instant>,
    complaint: String,
}

impl Noting {
    /// Once for each trouble.
    pub(super) fn complain(&mut self, error: &DeskError) {
        let error = error.to_string();
        if self.complaint != error {
            tracing::warn!("not everything can be recorded: {error}");
            self.complaint = error;
        }
    }
}

/// The policy that the record knows of.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    revision: String,
    entitlements: BTreeMap<String, String>,
}

impl Desk {
    pub(super) async fn note(&self, noting: &mut Noting) -> Result<(), DeskError> {
        let revision = self.admission.current().revision().to_owned();
        if noting.revision.as_ref() != Some(&revision) {
            // Once, whether or not it can be written.
            noting.revision = Some(revision);
            let noted = self.note_policy().await;
            self.has_noted.send_replace(true);
            noted?;
        }
        if noting.limited.is_none_or(|last| last.elapsed() >= LIMITED_PERIOD) {
            noting.limited = Some(Instant::now());
            self.note_exhausted().await?;
        }
        Ok(())
    }

    /// Once, however many instances load the same.
    async fn note_policy(&self) -> Result<(), DeskError> {
        let row = Row::new(Table::State, POLICY_ROW);
        let decide = |look: &Look| {
            let before: Known = read_if_any(look, 0).ok().flatten().unwrap_or_default();
            let admission = self.admission.current();
            let revisions = admission.entitlements().iter().take(MAX_REVISIONS);
            let now = Known {
                revision: admission.revision().to_owned(),
                entitlements: revisions.map(|one| (one.name.clone(), one.digest())).collect(),
            };
            if now == before {
                return Ok(Plan::nothing(()));
            }
            let loaded = Event::new(EventType::PolicyLoaded, look.now).with("revision", &now.revision);
            let mut events = vec![loaded.with("before", &before.revision)];
            for (name, (from, to)) in differing(&before.entitlements, &now.entitlements).take(MAX_UPDATES) {
                let mut event = Event::new(EventType::EntitlementUpdated, look.now);
                event.entitlement = Some(name.clone());
                event.revision =
                    to.and_then(|_| admission.entitlements().get(name)).map(|one| one.revision.clone());
                events.push(event.with("before", &from));
            }
            let value = write(&now)?;
            Ok(Plan::new((), vec![Write::Put { row: row.clone(), value, keep: None }], events))
        };
        self.change(std::slice::from_ref(&row), decide).await.map(|_| ())
    }

    async fn note_exhausted(&self) -> Result<(), DeskError> {
        let ids = self.all_of(&Index::Limited).await?;
        for batch in ids.chunks(MAX_LIMITED) {
            let look = self.store.look(&batch.iter().flat_map(|id| rows(id)).collect::<Vec<_>>()).await?;
            for (index, id) in batch.iter().enumerate() {
                // One that cannot be read is not one to speak of.
                if matches!(spent(&look, 2 * index), Ok(Spent::Yes(_) | Spent::Gone)) {
                    let decide = |look: &Look| exhausted(look, id);
                    self.change(&rows(id), decide).await?;
                }
            }
        }
        Ok(())
    }

    /// Nothing depends on it: what cannot be written is logged.
    pub(super) async fn note_recovery(&self, since: Timestamp) {
        tracing::info!(%since, "the store is back");
        let decide = |look: &Look| {
            if until(since, look.now) < MIN_OUTAGE {
                return Ok(Plan::nothing(()));
            }
            let event = Event::new(EventType::StoreRecovered, look.now).with("unavailable_since", &since);
            let row = Row::new(Table::State, "recovered");
            let write = Write::Put { row, value: since.to_string(), keep: None };
            Ok(Plan::new((), vec![write], vec![event]))
        };
        if let Err(error) = self.change(&[], decide).await {
            tracing::warn!("that the store was away since {since} is not recorded: {error}");
        }
    }
}

fn rows(id: &str) -> [Row; 2] {
    [Row::new(Table::Register, id), Row::new(Table::Uses, id)]
}

enum Spent {
    No,
    /// All its uses are taken.
    Yes(Box<Registered>),
    /// It is not one to look at any more.
    Gone,
}

fn spent(look: &Look, index: usize) -> Result<Spent, DeskError> {
    let Some(grant) = read_if_any::<Registered>(look, index)? else { return Ok(Spent::Gone) };
    let Some(max_uses) = grant.record.max_uses.filter(|_| grant.standing.is_open()) else {
        return Ok(Spent::Gone);
    };
    let uses = look.values.get(index + 1).and_then(Option::as_deref);
    let uses: u64 = uses.and_then(|text| text.parse().ok()).unwrap_or(0);
    Ok(if uses >= max_uses.get() && grant.standing == Standing::Active {
        Spent::Yes(Box::new(grant))
    } else {
        Spent::No
    })
}

fn exhausted(look: &Look, id: &str) -> Result<Plan<()>, DeskError> {
    let leave = Write::Leave { index: Index::Limited, id: id.to_owned() };
    match spent(look, 0)? {
        Spent::No => Ok(Plan::nothing(())),
        Spent::Gone => Ok(Plan::new((), vec![leave], Vec::new())),
        Spent::Yes(mut grant) => {
            let first = !std::mem::replace(&mut grant.is_exhausted, true);
            let event = Event::new(EventType::GrantExhausted, look.now).on_grant(&grant);
            let event = event.with("max_uses", &grant.record.max_uses);
            let writes = vec![leave, giving::put(&grant, look.now)?];
            Ok(if first { Plan::new((), writes, vec![event]) } else { Plan::nothing(()) })
        }
    }
}

/// What is other in one than in the other: before, and now.
fn differing<'m>(
    before: &'m BTreeMap<String, String>,
    now: &'m BTreeMap<String, String>,
) -> impl Iterator<Item = (&'m String, (Option<&'m String>, Option<&'m String>))> {
    let mut names: Vec<&String> = before.keys().chain(now.keys()).collect();
    names.sort();
    names.dedup();
    let both = names.into_iter().map(|name| (name, (before.get(name), now.get(name))));
    both.filter(|(_, (from, to))| from != to)
}
