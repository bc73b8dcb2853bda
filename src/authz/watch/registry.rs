//! The live streams of one thread: by number, by grant, and by when they end. Pure memory; decides nothing.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use super::look::{Depth, Known};
use crate::clock::{BootTime, Now};
use crate::decision::Decision;
use crate::grant::GrantId;

#[derive(Default)]
pub struct Registry {
    state: Mutex<State>,
    news: Notify,
}

#[derive(Default)]
struct State {
    last: u64,
    streams: HashMap<u64, Entry>,
    by_grant: HashMap<GrantId, HashSet<u64>>,
    ends: BTreeSet<(BootTime, u64)>,
    due: Due,
    is_closed: bool,
}

/// What has to be looked at again. Looks at grants come first: they are quick, and a revocation must not wait for policy.
#[derive(Default)]
struct Due {
    grants: BTreeSet<u64>,
    policy: BTreeSet<u64>,
}

impl Due {
    fn of(&mut self, depth: Depth) -> &mut BTreeSet<u64> {
        match depth {
            Depth::Grants => &mut self.grants,
            Depth::Policy => &mut self.policy,
        }
    }
}

struct Entry {
    known: Arc<Known>,
    end: oneshot::Sender<Decision>,
}

/// What became of ending a stream.
pub enum Ending {
    /// It was told to, and this is what was known of it.
    Told(Arc<Known>),
    /// It ended by itself in this moment.
    JustClosed,
    Unknown,
}

impl Registry {
    /// The number of a new stream, which is looked at right away: much may have happened since it was decided. None when
    /// the process stops.
    pub fn add(&self, known: Known, end: oneshot::Sender<Decision>) -> Option<u64> {
        let mut state = self.state();
        if state.is_closed {
            return None;
        }
        state.last += 1;
        let id = state.last;
        let known = Arc::new(known);
        state.index(id, &known);
        state.streams.insert(id, Entry { known, end });
        state.due.grants.insert(id);
        drop(state);
        self.news.notify_one();
        Some(id)
    }

    /// Whether it was still there.
    pub fn remove(&self, id: u64) -> bool {
        self.state().take(id).is_some()
    }

    pub fn end(&self, id: u64, decision: Decision) -> Ending {
        let Some(Entry { known, end }) = self.state().take(id) else { return Ending::Unknown };
        if end.send(decision).is_ok() { Ending::Told(known) } else { Ending::JustClosed }
    }

    pub fn get(&self, id: u64) -> Option<Arc<Known>> {
        self.state().streams.get(&id).map(|entry| Arc::clone(&entry.known))
    }

    /// What is known of it is something else by now. What is due stays so.
    pub fn replace(&self, id: u64, known: Known) {
        let mut state = self.state();
        let due = [Depth::Grants, Depth::Policy].map(|depth| state.due.of(depth).contains(&id));
        let Some(Entry { end, .. }) = state.take(id) else { return };
        let known = Arc::new(known);
        state.index(id, &known);
        state.streams.insert(id, Entry { known, end });
        for (depth, is_due) in [Depth::Grants, Depth::Policy].into_iter().zip(due) {
            if is_due {
                state.due.of(depth).insert(id);
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.state().streams.is_empty()
    }

    pub async fn has_news(&self) {
        self.news.notified().await;
    }

    pub fn next_end(&self) -> Option<BootTime> {
        self.state().ends.first().map(|(end, _)| *end)
    }

    pub fn is_anything_due(&self) -> bool {
        let due = &self.state().due;
        !due.grants.is_empty() || !due.policy.is_empty()
    }

    pub fn look_at_grant(&self, id: &GrantId) {
        let mut state = self.state();
        let State { by_grant, due, .. } = &mut *state;
        due.grants.extend(by_grant.get(id).into_iter().flatten());
    }

    pub fn look_at_all(&self, depth: Depth) {
        let mut state = self.state();
        let State { streams, due, .. } = &mut *state;
        due.of(depth).extend(streams.keys());
    }

    /// Those whose grants ended `grace` ago.
    pub fn look_at_ended(&self, now: Now, grace: Duration) {
        let mut state = self.state();
        let State { ends, due, .. } = &mut *state;
        due.grants.extend(ends.iter().take_while(|(end, _)| *end + grace <= now.boot).map(|(_, id)| id));
    }

    pub fn next_due(&self) -> Option<(u64, Depth)> {
        let mut state = self.state();
        let quick = state.due.grants.pop_first().map(|id| (id, Depth::Grants));
        quick.or_else(|| state.due.policy.pop_first().map(|id| (id, Depth::Policy)))
    }

    pub fn look_later(&self, later: Vec<(u64, Depth)>) {
        let mut state = self.state();
        for (id, depth) in later {
            if state.streams.contains_key(&id) {
                state.due.of(depth).insert(id);
            }
        }
    }

    /// Their calls end, and the streams go on unwatched.
    pub fn let_all_go(&self) {
        let mut state = self.state();
        *state = State { is_closed: true, ..State::default() };
    }

    /// A panic while the lock is held leaves at worst a stream that is looked at once too often.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn index(&mut self, id: u64, known: &Known) {
        for grant in &known.footing.grants {
            self.by_grant.entry(grant.id.clone()).or_default().insert(id);
        }
        self.ends.extend(known.end.map(|end| (end, id)));
    }

    fn take(&mut self, id: u64) -> Option<Entry> {
        let entry = self.streams.remove(&id)?;
        for grant in &entry.known.footing.grants {
            if let Some(streams) = self.by_grant.get_mut(&grant.id) {
                streams.remove(&id);
                if streams.is_empty() {
                    self.by_grant.remove(&grant.id);
                }
            }
        }
        if let Some(end) = entry.known.end {
            self.ends.remove(&(end, id));
        }
        self.due.grants.remove(&id);
        self.due.policy.remove(&id);
        Some(entry)
    }
}
