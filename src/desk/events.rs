//! The record, as far as a caller may see it.

use super::changes::parse;
use super::event::Event;
use super::questions::{About, Action, Asking};
use super::{Desk, DeskError};
use crate::clock::Clock;
use crate::principal::Identity;
use crate::store::journal::StoredEvent;

/// Events that one page looks at; those the caller may not see, or did not ask for, are among them.
const MAX_SCANNED: usize = 2000;
/// Events that are read at once.
const BATCH: usize = 500;

/// Which events. Empty members take all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// A type, or a family such as `grant.*`.
    pub kind: String,
    pub subject: String,
    pub request: String,
    pub grant: String,
    pub entitlement: String,
}

impl EventFilter {
    #[must_use]
    pub fn takes(&self, event: &Event) -> bool {
        let is = |wanted: &str, found: &Option<String>| wanted.is_empty() || found.as_deref() == Some(wanted);
        takes_type(&self.kind, &event.kind)
            && is(&self.subject, &event.subject)
            && is(&self.request, &event.request)
            && is(&self.grant, &event.grant)
            && is(&self.entitlement, &event.entitlement)
    }
}

/// Whether `name` is the type, or of the family.
#[must_use]
pub fn takes_type(wanted: &str, name: &str) -> bool {
    match wanted.strip_suffix('*') {
        _ if wanted.is_empty() => true,
        Some(family) => name.starts_with(family),
        None => wanted == name,
    }
}

/// An event, and what it was written as.
#[derive(Debug, Clone)]
pub struct SeenEvent {
    pub stored: StoredEvent,
    pub event: Event,
}

/// Part of the record, and after which number it goes on.
#[derive(Debug, Clone)]
pub struct EventPage {
    pub events: Vec<SeenEvent>,
    /// The last event that was looked at.
    pub reached: u64,
    /// Whether there was more than this page looked at.
    pub has_more: bool,
}

impl Desk {
    /// # Errors
    /// Policy has failed, or the store cannot be read.
    pub async fn events(
        &self,
        who: &Identity,
        after: u64,
        size: usize,
        filter: &EventFilter,
    ) -> Result<EventPage, DeskError> {
        let mut page = EventPage { events: Vec::new(), reached: after, has_more: false };
        let mut scanned = 0;
        loop {
            let batch = self.store.events(page.reached, BATCH).await?;
            let is_last = batch.len() < BATCH;
            let pick = || {
                let admission = self.admission.current();
                let asking = self.asking(&admission, Some(who), Clock::System.now().wall);
                for stored in batch {
                    if page.events.len() >= size {
                        page.has_more = true;
                        return Ok(());
                    }
                    scanned += 1;
                    page.reached = stored.number;
                    let event: Event = parse(&stored.document)?;
                    if filter.takes(&event) && sees_event(&asking, &event)? {
                        page.events.push(SeenEvent { stored, event });
                    }
                }
                Ok(())
            };
            let sees_all = self.admission.snapshot().entitlements().oversees(&who.caller);
            // Those who see everything ask policy nothing.
            if sees_all {
                pick()?;
            } else {
                self.picking(pick).await?;
            }
            if is_last || page.has_more {
                return Ok(page);
            }
            if scanned >= MAX_SCANNED {
                page.has_more = true;
                return Ok(page);
            }
        }
    }

    /// The number of the last event there is.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn last_event(&self) -> Result<u64, DeskError> {
        Ok(self.store.look(&[]).await?.head.number)
    }
}

fn sees_event(asking: &Asking<'_>, event: &Event) -> Result<bool, DeskError> {
    if asking.sees_all() {
        return Ok(true);
    }
    let question = event.question();
    asking.allows(Action::EventView, About { event: Some(&question), ..About::default() })
}
