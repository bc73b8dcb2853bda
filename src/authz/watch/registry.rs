//! The live streams of one thread: by number, by grant, and by when they end. Pure memory; decides nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
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
    /// What has to be looked at again, and how closely.
    due: BTreeMap<u64, Depth>,
    is_closed: bool,
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
        state.due.insert(id, Depth::Grants);
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

    /// What it rests on is something else by now.
    pub fn replace(&self, id: u64, known: Known) {
        let mut state = self.state();
        let Some(Entry { end, .. }) = state.take(id) else { return };
        let known = Arc::new(known);
        state.index(id, &known);
        state.streams.insert(id, Entry { known, end });
    }

    pub async fn has_news(&self) {
        self.news.notified().await;
    }

    pub fn next_end(&self) -> Option<BootTime> {
        self.state().ends.first().map(|(end, _)| *end)
    }

    pub fn is_anything_due(&self) -> bool {
        !self.state().due.is_empty()
    }

    pub fn look_at_grant(&self, id: &GrantId) {
        let mut state = self.state();
        let State { by_grant, due, .. } = &mut *state;
        for stream in by_grant.get(id).into_iter().flatten() {
            due.entry(*stream).or_insert(Depth::Grants);
        }
    }

    pub fn look_at_all(&self, depth: Depth) {
        let mut state = self.state();
        let State { streams, due, .. } = &mut *state;
        for id in streams.keys() {
            let entry = due.entry(*id).or_insert(depth);
            *entry = depth.max(*entry);
        }
    }

    /// Those whose grants ended `grace` ago.
    pub fn look_at_ended(&self, now: Now, grace: Duration) {
        let mut state = self.state();
        let State { ends, due, .. } = &mut *state;
        for (_, id) in ends.iter().take_while(|(end, _)| *end + grace <= now.boot) {
            due.entry(*id).or_insert(Depth::Grants);
        }
    }

    pub fn take_due(&self) -> BTreeMap<u64, Depth> {
        std::mem::take(&mut self.state().due)
    }

    pub fn look_later(&self, later: Vec<(u64, Depth)>) {
        let mut state = self.state();
        for (id, depth) in later {
            if state.streams.contains_key(&id) {
                let entry = state.due.entry(id).or_insert(depth);
                *entry = depth.max(*entry);
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
        self.due.remove(&id);
        Some(entry)
    }
}
