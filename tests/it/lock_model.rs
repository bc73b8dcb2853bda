//! The replica's locks against a plain reimplementation, through writes, deletions, losses and reconnections.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use daypass::clock::{BootTime, Now};
use daypass::lock::Lock;
use daypass::principal::Caller;
use daypass::replica::{Limits, Replica, Staleness};
use daypass::store::record::{ReadAt, Ttl, decode, decode_lock};
use jiff::Timestamp;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::sample::select;

const NOW: Now = Now { boot: BootTime::from_millis(1_000_000), wall: Timestamp::UNIX_EPOCH };
const HOUR: Duration = Duration::from_secs(3600);
const IDS: usize = 4;
/// Members of a lock's value that name its target. No more than versions are kept of one key.
const TARGETS: [&str; 4] = [
    r#""principal":"user:alice""#,
    r#""principal":"group:sre""#,
    r#""entitlement":"db""#,
    r#""everything":true"#,
];

#[derive(Debug, Clone)]
enum Change {
    Write {
        id: usize,
        target: usize,
        ttl: u64,
    },
    Delete(usize),
    /// A new history of the server, without these.
    Lose(BTreeSet<usize>),
    /// A new history, in which this one is what it was, or never was.
    Revert {
        id: usize,
        target: usize,
        ttl: u64,
    },
    /// A new session in the same history; these were deleted while nobody listened.
    Reconnect(BTreeSet<usize>),
    /// Announced, and not read yet.
    Doubt(usize),
}

fn change() -> impl Strategy<Value = Change> {
    let ids = || btree_set(0..IDS, 0..IDS);
    let value = || (0..IDS, 0..TARGETS.len(), select(vec![5_u64, 50]));
    prop_oneof![
        6 => value().prop_map(|(id, target, ttl)| Change::Write { id, target, ttl }),
        2 => value().prop_map(|(id, target, ttl)| Change::Revert { id, target, ttl }),
        3 => (0..IDS).prop_map(Change::Delete),
        2 => ids().prop_map(Change::Lose),
        2 => ids().prop_map(Change::Reconnect),
        1 => (0..IDS).prop_map(Change::Doubt),
    ]
}

/// What is known of one key.
#[derive(Debug, Clone)]
struct Known {
    /// Target and seconds, as it was last read.
    last: (usize, u64),
    /// Target to seconds, from histories that are over.
    kept: BTreeMap<usize, u64>,
    history: usize,
}

#[derive(Debug, Default)]
struct Model {
    server: BTreeMap<usize, (usize, u64)>,
    known: BTreeMap<usize, Known>,
    in_doubt: BTreeSet<usize>,
    history: usize,
}

impl Model {
    fn read(&mut self, id: usize, (target, ttl): (usize, u64)) {
        let history = self.history;
        let fresh = Known { last: (target, ttl), kept: BTreeMap::new(), history };
        let known = self.known.entry(id).or_insert_with(|| fresh.clone());
        if known.history != history {
            let end = known.kept.entry(known.last.0).or_default();
            *end = known.last.1.max(*end);
        } else if known.last.0 != target {
            known.kept.clear();
        }
        if known.kept.get(&target).is_some_and(|end| *end <= ttl) {
            known.kept.remove(&target);
        }
        (known.last, known.history) = ((target, ttl), history);
        self.in_doubt.remove(&id);
    }

    fn copy(&mut self) {
        for (id, value) in self.server.clone() {
            self.read(id, value);
        }
        let (history, server) = (self.history, &self.server);
        self.known.retain(|id, known| known.history != history || server.contains_key(id));
        self.in_doubt.clear();
    }

    fn holds(&self, targets: &[usize], after: u64) -> bool {
        let of = |known: &Known| known.kept.clone().into_iter().chain([known.last]).collect::<Vec<_>>();
        let mut held = self.known.values().flat_map(of);
        held.any(|(target, ttl)| targets.contains(&target) && ttl > after)
    }
}

fn lock(id: usize, target: usize, ttl: u64) -> Lock {
    let value = format!(r#"{{"v":1,{},"message":"m"}}"#, TARGETS[target]);
    let read_at = ReadAt { sent: NOW, ttl: Ttl::Left(Duration::from_secs(ttl)) };
    decode_lock(&format!("l-{id}"), value.as_bytes(), read_at).unwrap()
}

fn apply(replica: &Replica, model: &mut Model, change: &Change) {
    let key = |id: &usize| format!("l-{id}");
    match change {
        Change::Write { id, target, ttl } => {
            let history = format!("{}", model.history).into();
            replica.suspect_lock(&key(id));
            replica.insert_lock_of(lock(*id, *target, *ttl), &history, NOW).unwrap();
            model.server.insert(*id, (*target, *ttl));
            model.read(*id, (*target, *ttl));
            return;
        }
        Change::Delete(id) => {
            // Nothing is announced of a key that is not there.
            if model.server.remove(id).is_some() {
                replica.suspect_lock(&key(id));
                replica.remove_lock(&key(id));
                model.known.remove(id);
                model.in_doubt.remove(id);
            }
            return;
        }
        Change::Doubt(id) => {
            replica.suspect_lock(&key(id));
            model.in_doubt.insert(*id);
            return;
        }
        Change::Lose(lost) => {
            model.history += 1;
            model.server.retain(|id, _| !lost.contains(id));
        }
        Change::Revert { id, target, ttl } => {
            model.history += 1;
            model.server.insert(*id, (*target, *ttl));
        }
        Change::Reconnect(deleted) => model.server.retain(|id, _| !deleted.contains(id)),
    }
    let history: Arc<str> = format!("{}", model.history).into();
    replica.begin_pass();
    for (id, (target, ttl)) in &model.server {
        replica.insert_lock_of(lock(*id, *target, *ttl), &history, NOW).unwrap();
    }
    replica.end_lock_pass(&history, |_| false);
    model.copy();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn what_locks_is_what_the_rules_say(changes in vec(change(), 0..25)) {
        let replica = Replica::new(Staleness::Local, Limits { grants: 10, grants_per_principal: 10 });
        let mut model = Model::default();
        let alice = Caller::new(vec!["user:alice".parse().unwrap(), "group:sre".parse().unwrap()]);
        let read_at = ReadAt { sent: NOW, ttl: Ttl::Left(HOUR) };
        let from_db = br#"{"v":1,"subject":"user:alice","entitlement":"db"}"#;
        let grant = Arc::new(decode("g", from_db, read_at, HOUR).unwrap());
        for change in &changes {
            apply(&replica, &mut model, change);
            prop_assert_eq!(replica.is_lock_in_doubt(), !model.in_doubt.is_empty(), "{:?}", change);
            for after in [0, 10, 60] {
                let now = Now { boot: NOW.boot + Duration::from_secs(after), ..NOW };
                let found = (
                    replica.lock_on(&alice, now).is_some(),
                    !replica.take_locked(&mut vec![Arc::clone(&grant)], now).is_empty(),
                    replica.lock_on_everything(now).is_some(),
                );
                let expected = (model.holds(&[0, 1], after), model.holds(&[2], after), model.holds(&[3], after));
                prop_assert_eq!(found, expected, "after {} s, {:?} of {:?}", after, change, &changes);
            }
        }
        replica.sweep(Now { boot: NOW.boot + HOUR, ..NOW });
        prop_assert_eq!(replica.lock_count(), 0);
        prop_assert_eq!(replica.has_locks(), !model.in_doubt.is_empty());
    }
}
