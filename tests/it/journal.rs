//! The journal: a change is made whole, on the state it was decided on, once; in every store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use daypass::clock::Clock;
use daypass::replica::Staleness;
use daypass::store::journal::{
    Commit, GENESIS, Head, Index, KEEP, Look, MAX_DOCUMENT_BYTES, MAX_EVENTS, Outcome, Row, StoredEvent,
    Table, Write, chain,
};
use daypass::store::{EmbeddedStore, Store, StoreError};

use crate::support::journal::{Opened, change, event, give, make, surroundings};
use crate::support::proxy::Proxy;
use crate::support::random::Random;
use crate::support::redis::{Cluster, Flavour, Redis};
use crate::support::request::ALICES_GRANT;

const LOCK: &str = "{\"v\":1,\"everything\":true,\"message\":\"m\"}";
const MINUTE: Duration = Duration::from_secs(60);

/// Runs a test on each store.
macro_rules! on_every_store {
    ($($name:ident)*) => {$(
        mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn embedded() {
                super::$name(Opened::embedded()).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn memory() {
                super::$name(Opened::memory()).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn redis() {
                let Some(opened) = Opened::redis() else { return };
                super::$name(opened).await;
            }
        }
    )*};
}

on_every_store! {
    a_change_is_made_whole_or_not_at_all
    late_is_said_only_of_what_would_have_been_done
    a_change_asked_for_twice_is_made_once
    writers_at_once_lose_nothing
    what_is_kept_for_a_time_goes
    indexes_are_read_in_pages
    what_is_due_comes_in_its_order
    events_are_read_in_pages_and_waited_for
    grants_are_given_extended_and_ended
    locks_are_rows_to_look_at
    what_no_journal_holds_is_refused
    old_events_go
    marks_replace_what_they_say_and_leave_the_journal_alone
}

fn row(id: &str) -> Row {
    Row::new(Table::Requests, id)
}

fn put(id: &str, value: &str) -> Write {
    Write::Put { row: row(id), value: value.to_owned(), keep: None }
}

fn enter(index: Index, id: &str, keep: Option<Duration>) -> Write {
    Write::Enter { index, id: id.to_owned(), keep }
}

async fn value(store: &Store, row: Row) -> Option<String> {
    store.look(&[row]).await.unwrap().values.remove(0)
}

async fn ids(store: &Store, index: &Index) -> Vec<String> {
    store.scan(index, None, 100).await.unwrap().into_iter().map(|(_, id)| id).collect()
}

fn is_done(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Done { .. })
}

/// All events, and that they are numbered and chained from the first.
async fn verified(store: &Store) -> Vec<StoredEvent> {
    let (mut all, mut number, mut hash) = (Vec::new(), 0, GENESIS.to_owned());
    loop {
        let page = store.events(number, 300).await.unwrap();
        if page.is_empty() {
            break;
        }
        for event in page {
            number += 1;
            hash = chain(&hash, &event.document);
            assert_eq!((event.number, &event.hash), (number, &hash));
            all.push(event);
        }
    }
    assert_eq!(store.look(&[]).await.unwrap().head, Head { number, hash });
    all
}

/// One of every kind of write.
pub fn everything() -> Vec<Write> {
    vec![
        put("r", "new"),
        Write::Put { row: Row::new(Table::Calls, "c"), value: "v".to_owned(), keep: Some(MINUTE) },
        Write::Remove(row("old")),
        enter(Index::Pending, "r", None),
        enter(Index::Of("user:alice".to_owned()), "r", Some(KEEP)),
        Write::Leave { index: Index::Requests, id: "old".to_owned() },
        Write::Due { what: "expire:r".to_owned(), at: "2999-01-01T00:00:00Z".parse().unwrap() },
        Write::NotDue("expire:old".to_owned()),
        Write::Grant { id: "g".parse().unwrap(), record: ALICES_GRANT.to_owned(), ttl: MINUTE },
        Write::EndGrant("old".parse().unwrap()),
        Write::Lock { id: "l".parse().unwrap(), record: LOCK.to_owned(), ttl: MINUTE },
        Write::EndLock("old".parse().unwrap()),
    ]
}

async fn prepare(store: &Store) {
    give(store, "old", &ALICES_GRANT.replace("alice", "bob"), MINUTE).await.unwrap();
    let writes = vec![
        put("old", "before"),
        enter(Index::Requests, "old", Some(KEEP)),
        Write::Due { what: "expire:old".to_owned(), at: "2998-01-01T00:00:00Z".parse().unwrap() },
        Write::Lock { id: "old".parse().unwrap(), record: LOCK.to_owned(), ttl: MINUTE },
    ];
    make(store, writes).await.unwrap();
}

async fn is_as_before(store: &Store) {
    let rows =
        [row("r"), Row::new(Table::Calls, "c"), Row::new(Table::Grants, "g"), Row::new(Table::Locks, "l")];
    let Look { head, values, .. } = store.look(&rows).await.unwrap();
    assert_eq!((head.number, values), (2, vec![None; 4]));
    assert_eq!(value(store, row("old")).await.as_deref(), Some("before"));
    assert!(value(store, Row::new(Table::Grants, "old")).await.is_some());
    assert!(value(store, Row::new(Table::Locks, "old")).await.is_some());
    assert_eq!(ids(store, &Index::Requests).await, ["old"]);
    assert!(ids(store, &Index::Pending).await.is_empty());
    let due = store.due(10).await.unwrap();
    assert_eq!(due.next, Some("2998-01-01T00:00:00Z".parse().unwrap()));
    assert_eq!(verified(store).await.len(), 2);
}

async fn is_all_done(store: &Store) {
    let rows = [row("r"), Row::new(Table::Calls, "c"), Row::new(Table::Locks, "l"), row("old")];
    let Look { head, values, .. } = store.look(&rows).await.unwrap();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!((head.number, values), (3, vec![text("new"), text("v"), text(LOCK), None]));
    assert!(value(store, Row::new(Table::Grants, "g")).await.unwrap().contains("user:alice"));
    assert_eq!(value(store, Row::new(Table::Grants, "old")).await, None);
    assert_eq!(value(store, Row::new(Table::Locks, "old")).await, None);
    assert!(ids(store, &Index::Requests).await.is_empty());
    assert_eq!(ids(store, &Index::Pending).await, ["r"]);
    assert_eq!(ids(store, &Index::Of("user:alice".to_owned())).await, ["r"]);
    let due = store.due(10).await.unwrap();
    assert_eq!((due.what, due.next), (vec![], Some("2999-01-01T00:00:00Z".parse().unwrap())));
    assert_eq!(verified(store).await.len(), 3);
}

async fn a_change_is_made_whole_or_not_at_all(opened: Opened) {
    let store = &opened.store;
    assert_eq!(store.look(&[]).await.unwrap().head, Head::default());
    assert!(verified(store).await.is_empty());
    prepare(store).await;
    let seen = store.look(&[]).await.unwrap().head;
    let earlier = Head { number: 1, hash: store.events(0, 1).await.unwrap()[0].hash.clone() };
    let forged = Head { number: 2, hash: GENESIS.to_owned() };
    for head in [Head::default(), earlier, forged, Head { number: 3, ..seen.clone() }] {
        assert_eq!(store.commit(change(&head, everything())).await.unwrap(), Outcome::Moved, "{head:?}");
    }
    for unchanged in [
        (row("old"), None),
        (row("old"), Some("other".to_owned())),
        (row("r"), Some("new".to_owned())),
        (Row::new(Table::Grants, "old"), None),
        (Row::new(Table::Grants, "g"), Some(String::new())),
    ] {
        let unchanged = vec![(row("old"), Some("before".to_owned())), unchanged];
        let commit = Commit { unchanged: unchanged.clone(), ..change(&seen, everything()) };
        assert_eq!(store.commit(commit).await.unwrap(), Outcome::Moved, "{unchanged:?}");
    }
    is_as_before(store).await;
    let unchanged = vec![(row("old"), Some("before".to_owned())), (row("r"), None)];
    assert!(is_done(&store.commit(Commit { unchanged, ..change(&seen, everything()) }).await.unwrap()));
    is_all_done(store).await;
}

async fn late_is_said_only_of_what_would_have_been_done(opened: Opened) {
    let store = &opened.store;
    prepare(store).await;
    let Look { head, now, .. } = store.look(&[]).await.unwrap();
    let at = |seen: &Head, before| Commit { before: Some(before), ..change(seen, everything()) };
    for before in [now, now - Duration::from_millis(1), jiff::Timestamp::MIN] {
        assert_eq!(store.commit(at(&head, before)).await.unwrap(), Outcome::Late);
        assert_eq!(store.commit(at(&Head::default(), before)).await.unwrap(), Outcome::Moved);
        let unchanged = vec![(row("old"), None)];
        let changed = Commit { unchanged, ..at(&head, before) };
        assert_eq!(store.commit(changed).await.unwrap(), Outcome::Moved);
    }
    is_as_before(store).await;
    assert!(is_done(&store.commit(at(&head, now + MINUTE)).await.unwrap()));
    is_all_done(store).await;
}

async fn a_change_asked_for_twice_is_made_once(opened: Opened) {
    let store = &opened.store;
    prepare(store).await;
    let seen = store.look(&[]).await.unwrap().head;
    let commit = Commit { events: vec![event("one"), event("two")], ..change(&seen, everything()) };
    let first = store.commit(commit.clone()).await.unwrap();
    assert!(is_done(&first));
    make(store, vec![put("r", "newer")]).await.unwrap();
    // The head that it was made with is told, whoever came after.
    let Outcome::Done { head, .. } = store.commit(commit).await.unwrap() else { panic!() };
    assert!(matches!(first, Outcome::Done { head: first, .. } if first == head));
    assert_eq!(value(store, row("r")).await.as_deref(), Some("newer"));
    assert_eq!(verified(store).await.len(), 5);
}

async fn count_up(store: &Store, times: usize) {
    for _ in 0..times {
        loop {
            let Look { head, values, .. } = store.look(&[row("count")]).await.unwrap();
            let count: u64 = values[0].as_deref().map_or(0, |count| count.parse().unwrap());
            let commit = change(&head, vec![put("count", &(count + 1).to_string())]);
            match store.commit(commit).await.unwrap() {
                Outcome::Done { .. } => break,
                Outcome::Moved => {}
                Outcome::Late => panic!("late"),
            }
        }
    }
}

async fn writers_at_once_lose_nothing(opened: Opened) {
    const TASKS: usize = 8;
    const TIMES: usize = 200;
    let second = opened.redis.as_ref().map(|redis| Opened::at(&redis.url()));
    let mut writers = Vec::new();
    for opened in std::iter::once(&opened).chain(&second) {
        for _ in 0..TASKS {
            let store = Arc::clone(&opened.store);
            writers.push(tokio::spawn(async move { count_up(&store, TIMES).await }));
        }
    }
    let expected = writers.len() * TIMES;
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(value(&opened.store, row("count")).await, Some(expected.to_string()));
    assert_eq!(verified(&opened.store).await.len(), expected);
}

async fn what_is_kept_for_a_time_goes(opened: Opened) {
    let store = &opened.store;
    let short = Some(Duration::from_millis(300));
    let mine = || Index::Of("user:alice".to_owned());
    let kept = |id: &str, keep| Write::Put { row: row(id), value: "v".to_owned(), keep };
    let writes = vec![
        kept("short", short),
        kept("long", Some(MINUTE)),
        kept("ever", None),
        enter(mine(), "short", short),
        enter(mine(), "long", Some(MINUTE)),
        enter(mine(), "ever", None),
        enter(Index::Pending, "short", short),
        enter(Index::Register, "longer", short),
        Write::Lock { id: "l".parse().unwrap(), record: LOCK.to_owned(), ttl: Duration::from_millis(300) },
    ];
    make(store, writes).await.unwrap();
    let rows = [row("short"), row("long"), row("ever"), Row::new(Table::Locks, "l")];
    assert!(store.look(&rows).await.unwrap().values.iter().all(Option::is_some));
    assert_eq!(ids(store, &mine()).await, ["short", "long", "ever"]);
    let first = store.scan(&Index::Register, None, 1).await.unwrap();
    // Kept for longer, or written again, before its time is over.
    make(store, vec![kept("long", short), enter(Index::Register, "longer", Some(MINUTE))]).await.unwrap();
    make(store, vec![kept("long", None)]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(350)).await;
    let values = store.look(&rows).await.unwrap().values;
    assert_eq!(values.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true, true, false]);
    assert_eq!(ids(store, &mine()).await, ["long", "ever"]);
    assert!(ids(store, &Index::Pending).await.is_empty());
    assert_eq!(store.scan(&Index::Register, None, 9).await.unwrap(), first, "it keeps its place");
    if let Store::Embedded(embedded) = &**store {
        embedded.sweep().unwrap();
    }
    if let Some(redis) = &opened.redis {
        assert_eq!(redis.run::<u64>("EXISTS {jit}:index:pending {jit}:until:pending"), 0);
        assert_eq!(redis.run::<i64>("PTTL {jit}:index:of:user:alice"), -1);
        assert!(redis.run::<i64>("PTTL {jit}:index:register") > 50_000);
        make(store, vec![enter(mine(), "next", None)]).await.unwrap();
        assert_eq!(redis.run::<u64>("ZCARD {jit}:index:of:user:alice"), 3);
        assert_eq!(redis.run::<u64>("ZCARD {jit}:until:of:user:alice"), 1);
    }
    assert!(ids(store, &mine()).await.contains(&"ever".to_owned()));
    // One that comes back begins anew.
    let before = store.look(&[]).await.unwrap().now;
    make(store, vec![enter(mine(), "short", None)]).await.unwrap();
    let page = store.scan(&mine(), None, 10).await.unwrap();
    let place = page.iter().find(|(_, id)| id == "short").unwrap();
    assert!(place.0 >= before.as_millisecond());
}

async fn indexes_are_read_in_pages(opened: Opened) {
    let store = &opened.store;
    let index = || Index::ReviewedBy("user:zoë; {x}".to_owned());
    let mut entered = Vec::new();
    for batch in 0..4 {
        // Of one millisecond each, and of every kind of order.
        let names: Vec<String> =
            ["a", "B", "b", "ä", "a1", "Z", "-", "_"].iter().map(|name| format!("{name}{batch}")).collect();
        make(store, names.iter().map(|id| enter(index(), id, None)).collect()).await.unwrap();
        entered.extend(names);
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    // In other indexes of like names, and twice.
    make(store, vec![enter(Index::ReviewedBy("user:zo".to_owned()), "x", None)]).await.unwrap();
    make(store, vec![enter(Index::ReviewedBy("user:zoë; {x}y".to_owned()), "y", None)]).await.unwrap();
    make(store, vec![enter(index(), &entered[0], None)]).await.unwrap();
    let whole = store.scan(&index(), None, 100).await.unwrap();
    let mut sorted = whole.clone();
    sorted.sort_by(|a, b| b.cmp(a));
    assert_eq!(whole, sorted);
    assert_eq!(whole.len(), entered.len());
    for size in [1, 3, 8, 31] {
        let mut pages = Vec::new();
        while let Some(page) =
            Some(store.scan(&index(), pages.last(), size).await.unwrap()).filter(|page| !page.is_empty())
        {
            assert!(page.len() <= size);
            pages.extend(page);
        }
        assert_eq!(pages, whole, "{size}");
    }
    assert!(store.scan(&index(), None, 0).await.unwrap().is_empty());
    // What the page before ended with may have left.
    let (third, rest) = (&whole[2], &whole[3..]);
    make(store, vec![Write::Leave { index: index(), id: third.1.clone() }]).await.unwrap();
    assert_eq!(store.scan(&index(), Some(third), 100).await.unwrap(), rest);
    assert!(store.scan(&Index::Pending, Some(third), 100).await.unwrap().is_empty());
}

async fn what_is_due_comes_in_its_order(opened: Opened) {
    let store = &opened.store;
    let empty = store.due(10).await.unwrap();
    assert_eq!((empty.what, empty.next), (vec![], None));
    let now = store.look(&[]).await.unwrap().now;
    let at = |what: &str, millis: i64| Write::Due {
        what: what.to_owned(),
        at: now + jiff::SignedDuration::from_millis(millis),
    };
    let writes = vec![
        at("c", -10),
        at("moved", 60_000),
        at("a", -20),
        at("b", -10),
        at("gone", -30),
        at("moved", -40),
        at("later", 90_000),
        at("soon", 80_000),
        Write::NotDue("gone".to_owned()),
        Write::NotDue("unknown".to_owned()),
    ];
    make(store, writes).await.unwrap();
    let due = store.due(10).await.unwrap();
    let whats =
        |due: &[(String, jiff::Timestamp)]| due.iter().map(|(what, _)| what.clone()).collect::<Vec<_>>();
    assert_eq!(whats(&due.what), ["moved", "a", "b", "c"]);
    assert_eq!(due.what[1].1, now - Duration::from_millis(20));
    assert_eq!(due.next, Some(now + Duration::from_secs(80)));
    assert!(due.now >= now);
    let two = store.due(2).await.unwrap();
    assert_eq!((whats(&two.what), two.next), (vec!["moved".to_owned(), "a".to_owned()], due.next));
    // Never before its moment.
    let soon = store.look(&[]).await.unwrap().now + Duration::from_micros(40_500);
    make(store, vec![Write::Due { what: "soon".to_owned(), at: soon }]).await.unwrap();
    loop {
        let due = store.due(10).await.unwrap();
        if whats(&due.what).contains(&"soon".to_owned()) {
            assert!(due.now >= soon, "{} {soon}", due.now);
            break;
        }
    }
}

async fn events_are_read_in_pages_and_waited_for(opened: Opened) {
    let store = Arc::clone(&opened.store);
    let wait = |past: u64| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.moved(past).await })
    };
    let waiters: Vec<_> = (0..20).map(|_| wait(0)).collect();
    let abandoned = wait(0);
    let later = wait(3);
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
    abandoned.abort();
    // By somebody else, where there can be one.
    let other =
        opened.redis.as_ref().map_or_else(|| Arc::clone(&store), |redis| Opened::at(&redis.url()).store);
    make(&other, vec![put("r", "1")]).await.unwrap();
    for waiter in waiters {
        tokio::time::timeout(MINUTE, waiter).await.unwrap().unwrap();
    }
    let three = Commit {
        events: (0..3).map(|_| event("more")).collect(),
        ..change(&store.look(&[]).await.unwrap().head, vec![])
    };
    assert!(!later.is_finished());
    assert!(is_done(&other.commit(three).await.unwrap()));
    tokio::time::timeout(MINUTE, later).await.unwrap().unwrap();
    tokio::time::timeout(MINUTE, store.moved(3)).await.unwrap();
    let all = verified(&store).await;
    assert_eq!(all.len(), 4);
    assert_eq!(store.events(1, 2).await.unwrap(), all[1..3]);
    for after in [4, 5, u64::MAX] {
        assert!(store.events(after, 10).await.unwrap().is_empty());
    }
    assert!(store.events(0, 0).await.unwrap().is_empty());
}

async fn grants_are_given_extended_and_ended(opened: Opened) {
    let store = &opened.store;
    let is_local = opened.redis.is_none();
    give(store, "g", ALICES_GRANT, MINUTE).await.unwrap();
    assert!(matches!(give(store, "g", ALICES_GRANT, MINUTE).await, Err(StoreError::AlreadyExists)));
    assert_eq!(opened.replica.get("g").is_some(), is_local);
    let left = || async {
        let stored = store.get("g".parse().unwrap()).await.unwrap();
        stored.expires_at.duration_since(jiff::Timestamp::now()).as_secs()
    };
    assert!((50..=60).contains(&left().await));
    let grant = |id: &str, record: &str, ttl| Write::Grant {
        id: id.parse().unwrap(),
        record: record.to_owned(),
        ttl,
    };
    make(store, vec![grant("g", ALICES_GRANT, 10 * MINUTE)]).await.unwrap();
    assert!((590..=600).contains(&left().await));
    assert_eq!(store.list(None).await.unwrap().len(), 1);
    // What is none.
    let number = store.look(&[]).await.unwrap().head.number;
    for (id, record, ttl) in [
        ("h", "{}", MINUTE),
        ("h", "no", MINUTE),
        ("h", "{\"v\":1,\"subject\":\"alice\"}", MINUTE),
        ("h", "{\"v\":1,\"id\":\"g\",\"subject\":\"user:alice\"}", MINUTE),
        ("h", ALICES_GRANT, Duration::from_secs(86_401)),
    ] {
        let made = make(store, vec![put("r", "x"), grant(id, record, ttl)]).await;
        assert!(matches!(made, Err(StoreError::Invalid(_))), "{record}: {made:?}");
    }
    assert_eq!(value(store, row("r")).await, None);
    if is_local {
        for id in ["h", "i"] {
            give(store, id, ALICES_GRANT, MINUTE).await.unwrap();
        }
        assert!(matches!(give(store, "j", ALICES_GRANT, MINUTE).await, Err(StoreError::Full(_))));
        make(store, vec![grant("g", ALICES_GRANT, 5 * MINUTE)]).await.unwrap();
        make(store, ["h", "i"].map(|id| Write::EndGrant(id.parse().unwrap())).to_vec()).await.unwrap();
    } else {
        assert_eq!(store.look(&[]).await.unwrap().head.number, number);
    }
    let ends = vec![Write::EndGrant("g".parse().unwrap()), Write::EndGrant("unknown".parse().unwrap())];
    make(store, ends).await.unwrap();
    assert!(matches!(store.get("g".parse().unwrap()).await, Err(StoreError::NotFound)));
    assert!(opened.replica.get("g").is_none());
    if !is_local {
        // The ledger would end it again.
        assert!(matches!(give(store, "g", ALICES_GRANT, MINUTE).await, Err(StoreError::AlreadyExists)));
    }
    // One that ends by itself is not there, swept or not.
    give(store, "short", ALICES_GRANT, Duration::from_millis(50)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(value(store, Row::new(Table::Grants, "short")).await, None);
    verified(store).await;
}

async fn locks_are_rows_to_look_at(opened: Opened) {
    let store = &opened.store;
    let id = || "l".parse().unwrap();
    let lock = |record: &str| Write::Lock { id: id(), record: record.to_owned(), ttl: MINUTE };
    make(store, vec![lock(LOCK)]).await.unwrap();
    make(store, vec![lock(&LOCK.replace("\"m\"", "\"n\""))]).await.unwrap();
    assert_eq!(
        value(store, Row::new(Table::Locks, "l")).await.as_deref(),
        Some(LOCK.replace("\"m\"", "\"n\"").as_str())
    );
    make(store, vec![Write::EndLock(id())]).await.unwrap();
    assert_eq!(value(store, Row::new(Table::Locks, "l")).await, None);
}

async fn what_no_journal_holds_is_refused(opened: Opened) {
    let store = &opened.store;
    let head = Head::default();
    let long = "x".repeat(MAX_DOCUMENT_BYTES + 1);
    let grants = Row::new(Table::Grants, "g");
    for commit in [
        Commit { events: vec![], ..change(&head, vec![put("r", "x")]) },
        Commit { events: vec![long.clone()], ..change(&head, vec![put("r", "x")]) },
        change(&head, vec![put("r", &long)]),
        change(&head, vec![Write::Put { row: grants.clone(), value: "{}".to_owned(), keep: None }]),
        change(&head, vec![Write::Remove(grants)]),
        change(&head, vec![put("r", "x"); 20_000]),
    ] {
        let refused = store.commit(commit).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    }
    assert_eq!(store.look(&[row("r")]).await.unwrap().values, [None]);
    // And what it just holds.
    let largest = "x".repeat(MAX_DOCUMENT_BYTES);
    let many: Vec<_> = (0..10_000).map(|number| put(&format!("r{number}"), "x")).collect();
    make(store, [many, vec![put("r", &largest)]].concat()).await.unwrap();
    assert_eq!(value(store, row("r")).await, Some(largest));
    assert_eq!(value(store, row("r9999")).await.as_deref(), Some("x"));
}

async fn old_events_go(opened: Opened) {
    let store = &opened.store;
    let mut total = 0;
    while total < MAX_EVENTS + 10_000 {
        let Look { head, .. } = store.look(&[]).await.unwrap();
        let events = (0..11_000).map(|number| format!("{{\"n\":{total},\"of\":{number}}}")).collect();
        let commit = Commit { events, ..change(&head, vec![]) };
        assert!(is_done(&store.commit(commit).await.unwrap()));
        total += 11_000;
    }
    let first = store.events(0, 1).await.unwrap().remove(0);
    let kept = total - first.number + 1;
    // A stream drops whole nodes of a hundred entries or so.
    assert!((MAX_EVENTS..MAX_EVENTS + 1_000).contains(&kept), "{kept}");
    let last = store.events(total - 2, 9).await.unwrap();
    assert_eq!(last.iter().map(|event| event.number).collect::<Vec<_>>(), [total - 1, total]);
    assert_eq!(last[1].hash, chain(&last[0].hash, &last[1].document));
}

async fn marks_replace_what_they_say_and_leave_the_journal_alone(opened: Opened) {
    let store = &opened.store;
    let head = make(store, vec![put("r", "x")]).await.unwrap();
    let mark_row = || Row::new(Table::Webhooks, "w");
    let write = |value: &str| Write::Put { row: mark_row(), value: value.to_owned(), keep: Some(MINUTE) };
    let mark = |before: Option<&str>, value: &str| Commit {
        unchanged: vec![(mark_row(), before.map(str::to_owned))],
        writes: vec![write(value)],
        ..Commit::default()
    };
    // Against no head at all, an old one, and the one there is.
    assert!(is_done(&store.commit(mark(None, "1")).await.unwrap()));
    assert_eq!(store.commit(mark(None, "2")).await.unwrap(), Outcome::Moved);
    assert_eq!(store.commit(mark(Some("0"), "2")).await.unwrap(), Outcome::Moved);
    let with_head = Commit { seen: head.clone(), ..mark(Some("1"), "2") };
    assert!(is_done(&store.commit(with_head.clone()).await.unwrap()));
    assert_eq!(store.commit(with_head).await.unwrap(), Outcome::Moved);
    assert_eq!(value(store, mark_row()).await.as_deref(), Some("2"));
    assert_eq!(store.look(&[]).await.unwrap().head, head);
    // A change that was decided before the mark is still made.
    assert!(is_done(&store.commit(change(&head, vec![put("r", "y")])).await.unwrap()));
    tokio::time::timeout(MINUTE, store.moved(head.number)).await.unwrap();
    assert!(is_done(&store.commit(mark(Some("2"), "3")).await.unwrap()));
    tokio::time::timeout(MINUTE, store.moved(head.number)).await.expect("a mark moves nothing back");
    let late = Commit { before: Some(jiff::Timestamp::UNIX_EPOCH), ..mark(Some("3"), "4") };
    assert_eq!(store.commit(late).await.unwrap(), Outcome::Late);
    // Of many at once one is first.
    let racing = (0..16).map(|number| {
        let (store, commit) = (Arc::clone(store), mark(Some("3"), &format!("n{number}")));
        tokio::spawn(async move { store.commit(commit).await.unwrap() })
    });
    let mut won = 0;
    for racer in racing.collect::<Vec<_>>() {
        won += usize::from(is_done(&racer.await.unwrap()));
    }
    assert_eq!(won, 1);
    // Nothing else is a mark, and none is blind.
    for commit in [
        Commit { unchanged: vec![], ..mark(None, "5") },
        Commit { unchanged: vec![(row("w"), None)], ..mark(None, "5") },
        Commit { writes: vec![write("5"), put("r", "z")], ..mark(None, "5") },
        Commit { writes: vec![write("5"), Write::NotDue("x".to_owned())], ..mark(None, "5") },
        Commit { writes: vec![Write::Remove(mark_row())], ..mark(None, "5") },
    ] {
        let refused = store.commit(commit).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    }
    assert_eq!(verified(store).await.len(), 2);
}

#[tokio::test]
async fn the_file_keeps_the_journal_and_its_clock() {
    let dir = tempfile::tempdir().unwrap();
    let at = |second: i64| {
        let now = Clock::System.now();
        Clock::Fixed(daypass::clock::Now { wall: jiff::Timestamp::from_second(second).unwrap(), ..now })
    };
    let open = |second| {
        let around = surroundings(Staleness::Local, at(second));
        Store::Embedded(Arc::new(EmbeddedStore::open(dir.path(), around).unwrap()))
    };
    let later = open(2_000_000_000);
    prepare(&later).await;
    let shown = later.look(&[]).await.unwrap();
    assert_eq!(shown.now.as_second(), 2_000_000_000);
    drop(later);
    let earlier = open(1_900_000_000);
    is_as_before(&earlier).await;
    let seen = earlier.look(&[]).await.unwrap();
    assert_eq!((seen.head.clone(), seen.now), (shown.head, shown.now));
    let late = Commit { before: Some(shown.now), ..change(&seen.head, vec![]) };
    assert_eq!(earlier.commit(late).await.unwrap(), Outcome::Late);
    tokio::time::timeout(MINUTE, earlier.moved(1)).await.unwrap();
    make(&earlier, vec![put("r", "x")]).await.unwrap();
    verified(&earlier).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_back_is_not_followed() {
    let Some(opened) = Opened::redis() else { return };
    let redis = opened.redis.as_ref().unwrap();
    make(&opened.store, vec![]).await.unwrap();
    let head: String = redis.run("GET {jit}:head");
    let (rest, _) = head.rsplit_once(' ').unwrap();
    let ahead = (jiff::Timestamp::now() + Duration::from_secs(3600)).as_millisecond();
    redis.query::<()>(redis::cmd("SET").arg("{jit}:head").arg(format!("{rest} {ahead}")));
    let Look { head, now, .. } = opened.store.look(&[]).await.unwrap();
    assert_eq!(now.as_millisecond(), ahead);
    let late = Commit { before: Some(now), ..change(&head, vec![]) };
    assert_eq!(opened.store.commit(late).await.unwrap(), Outcome::Late);
    make(&opened.store, vec![]).await.unwrap();
    // What this process was shown counts also where the server has lost it.
    redis.run::<()>("FLUSHALL");
    let Look { head, now, .. } = opened.store.look(&[]).await.unwrap();
    assert_eq!((head, now.as_millisecond()), (Head::default(), ahead));
    make(&opened.store, vec![]).await.unwrap();
    let next = Opened::at(&redis.url());
    assert_eq!(next.store.look(&[]).await.unwrap().now.as_millisecond(), ahead);
    verified(&opened.store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_another_kind_in_the_way_leaves_everything_as_it_was() {
    let Some(opened) = Opened::redis() else { return };
    let (redis, store) = (opened.redis.as_ref().unwrap(), &opened.store);
    prepare(store).await;
    for key in [
        "request:r",
        "call:c",
        "index:pending",
        "until:pending",
        "index:of:user:alice",
        "until:of:user:alice",
        "grant:g",
        "lock:l",
    ] {
        redis.run::<u64>(&format!("RPUSH {{jit}}:{key} x"));
        let seen = store.look(&[]).await.unwrap().head;
        let failed = store.commit(change(&seen, everything())).await;
        assert!(matches!(&failed, Err(StoreError::Refused(why)) if why.contains(key)), "{key}: {failed:?}");
        redis.run::<u64>(&format!("DEL {{jit}}:{key}"));
        is_as_before(store).await;
    }
    for (key, with) in [("due", "RPUSH {jit}:due x"), ("events", "RPUSH {jit}:events x")] {
        redis.run::<()>(&format!("RENAME {{jit}}:{key} {{jit}}:saved"));
        redis.run::<u64>(with);
        let seen = store.look(&[]).await.unwrap().head;
        let failed = store.commit(change(&seen, everything())).await;
        assert!(matches!(failed, Err(StoreError::Refused(_))), "{key}: {failed:?}");
        redis.run::<()>(&format!("RENAME {{jit}}:saved {{jit}}:{key}"));
        is_as_before(store).await;
    }
    // The stream has what the head does not know of.
    redis.run::<String>("XADD {jit}:events 7-0 x y");
    let seen = store.look(&[]).await.unwrap().head;
    let failed = store.commit(change(&seen, everything())).await;
    assert!(matches!(&failed, Err(StoreError::Refused(why)) if why.contains("ahead")), "{failed:?}");
    assert_eq!(value(store, row("r")).await, None);
    // What is no event is left out.
    assert_eq!(store.events(0, 10).await.unwrap().len(), 2);
    assert!(store.events(2, 10).await.unwrap().is_empty());
    for head in ["", "x", "1", "1 xyz 3", "-1 00 0"] {
        redis.query::<()>(redis::cmd("SET").arg("{jit}:head").arg(head));
        assert!(matches!(store.look(&[]).await, Err(StoreError::Refused(_))), "{head}");
        assert!(matches!(store.commit(change(&seen, everything())).await, Err(StoreError::Refused(_))));
    }
    redis.run::<()>("FLUSHALL");
    assert_eq!(store.look(&[row("r")]).await.unwrap().head, Head::default());
    make(store, everything()).await.unwrap();
    verified(store).await;
}

/// Whatever a grant's key holds, it can be looked at and ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_grant_is_ended_too() {
    let Some(opened) = Opened::redis() else { return };
    let (redis, store) = (opened.redis.as_ref().unwrap(), &opened.store);
    redis.run::<u64>("RPUSH {jit}:grant:list x");
    redis.query::<()>(redis::cmd("SET").arg("{jit}:grant:binary").arg(&[0xff_u8, 0xfe][..]));
    redis.query::<()>(redis::cmd("SET").arg("{jit}:grant:long").arg("x".repeat(MAX_DOCUMENT_BYTES + 1)));
    let ids = ["list", "binary", "long"];
    let rows = ids.map(|id| Row::new(Table::Grants, id));
    let Look { head, values, .. } = store.look(&rows).await.unwrap();
    assert_eq!(values, vec![Some(String::new()); 3]);
    let ends = ids.map(|id| Write::EndGrant(id.parse().unwrap())).to_vec();
    let unchanged = rows.into_iter().zip(values).collect();
    let outcome = store.commit(Commit { unchanged, ..change(&head, ends) }).await.unwrap();
    assert!(is_done(&outcome), "{outcome:?}");
    assert_eq!(redis.run::<u64>("EXISTS {jit}:grant:list {jit}:grant:binary {jit}:grant:long"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_that_may_not_do_all_of_it_does_nothing() {
    let Some(opened) = Opened::redis() else { return };
    let redis = opened.redis.as_ref().unwrap();
    prepare(&opened.store).await;
    for missing in ["-zadd", "-zrem", "-xadd", "-set", "-del", "-pexpire", "-persist", "-zcard"] {
        redis.run::<()>(&format!("ACL SETUSER api reset on >secret ~* +@all {missing}"));
        let api = Opened::at(&format!("redis://api:secret@127.0.0.1:{}", redis.port));
        let seen = api.store.look(&[]).await.unwrap().head;
        let failed = api.store.commit(change(&seen, everything())).await;
        assert!(matches!(failed, Err(StoreError::Refused(_))), "{missing}: {failed:?}");
        is_as_before(&opened.store).await;
    }
    redis.run::<()>("ACL SETUSER api reset on >secret ~{jit}:grant:* ~{jit}:head ~{jit}:events +@all");
    let api = Opened::at(&format!("redis://api:secret@127.0.0.1:{}", redis.port));
    let seen = opened.store.look(&[]).await.unwrap().head;
    assert!(matches!(api.store.commit(change(&seen, everything())).await, Err(StoreError::Refused(_))));
    is_as_before(&opened.store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_access_away_needs_no_memory() {
    let Some(opened) = Opened::redis() else { return };
    let (redis, store) = (opened.redis.as_ref().unwrap(), &opened.store);
    prepare(store).await;
    redis.run::<()>("CONFIG SET maxmemory 1mb");
    let seen = store.look(&[]).await.unwrap().head;
    for writes in [vec![put("r", "x")], vec![Write::EndLock("old".parse().unwrap())]] {
        let failed = store.commit(change(&seen, writes)).await;
        assert!(matches!(&failed, Err(StoreError::Refused(why)) if why.contains("memory")), "{failed:?}");
    }
    is_as_before(store).await;
    assert!(is_done(&store.commit(change(&seen, everything())).await.unwrap()));
    is_all_done(store).await;
    let lock = Write::Lock { id: "next".parse().unwrap(), record: LOCK.to_owned(), ttl: MINUTE };
    make(store, vec![lock]).await.unwrap();
}

/// Connections are cut in the middle of everything, and each change is made once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_make_no_change_twice() {
    let Some(redis) = Redis::start(&[]) else { return };
    let proxy = Arc::new(Proxy::to(redis.port));
    let opened = Opened::at(&proxy.url());
    let until = Instant::now() + Duration::from_secs(4);
    let cutter = std::thread::spawn({
        let (proxy, mut random) = (Arc::clone(&proxy), Random::from_env("JOURNAL_SEED"));
        move || {
            while Instant::now() < until {
                std::thread::sleep(Duration::from_millis(random.below(40)));
                proxy.cut();
            }
        }
    });
    let mut writers = Vec::new();
    for name in 0..4 {
        let store = Arc::clone(&opened.store);
        writers.push(tokio::spawn(async move {
            let (mut known, mut unknown) = (Vec::new(), Vec::new());
            for number in 0.. {
                if Instant::now() >= until {
                    break;
                }
                let what = format!("{name}/{number}");
                let document = format!("{{\"change\":\"{what}\"}}");
                let Ok(Look { head, values, .. }) = store.look(&[row("all")]).await else { continue };
                let all = format!("{}{what},", values[0].clone().unwrap_or_default());
                // Every other takes the way of revocations, on a connection of its own.
                let mut steps = vec![put("all", &all)];
                if number % 2 == 1 {
                    steps.push(Write::EndGrant("nobodys".parse().unwrap()));
                }
                let commit = Commit { events: vec![document], ..change(&head, steps) };
                match store.commit(commit).await {
                    Ok(Outcome::Done { .. }) => known.push(what),
                    Err(StoreError::Unavailable(_)) => unknown.push(what),
                    Ok(_) | Err(_) => {}
                }
            }
            (known, unknown)
        }));
    }
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for writer in writers {
        let (more_known, more_unknown) = writer.await.unwrap();
        known.extend(more_known);
        unknown.extend(more_unknown);
    }
    cutter.join().unwrap();
    println!("{} made, of {} nobody knows", known.len(), unknown.len());
    assert!(known.len() > 20);
    let direct = Opened::at(&redis.url());
    let made: Vec<String> = verified(&direct.store).await.into_iter().map(|event| event.document).collect();
    let all = value(&direct.store, row("all")).await.unwrap();
    let changes: Vec<String> =
        all.split_terminator(',').map(|what| format!("{{\"change\":\"{what}\"}}")).collect();
    assert_eq!(made, changes, "each event is one change, once, in its order");
    for what in &known {
        assert!(changes.contains(&format!("{{\"change\":\"{what}\"}}")), "{what}");
    }
    assert!(changes.len() <= known.len() + unknown.len(), "what was said not to be made was not");
}

/// An end that was not made is none: the ledger must not ask for it when the server begins anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_was_not_made_is_not_asked_for_again() {
    let Some(opened) = Opened::redis() else { return };
    let store = &opened.store;
    give(store, "g", ALICES_GRANT, MINUTE).await.unwrap();
    let end = || vec![Write::EndGrant("g".parse().unwrap())];
    assert_eq!(store.commit(change(&Head::default(), end())).await.unwrap(), Outcome::Moved);
    let Look { head, now, .. } = store.look(&[]).await.unwrap();
    let late = Commit { before: Some(now), ..change(&head, end()) };
    assert_eq!(store.commit(late).await.unwrap(), Outcome::Late);
    // Were it in the ledger, it could not be extended.
    let longer = Write::Grant { id: "g".parse().unwrap(), record: ALICES_GRANT.to_owned(), ttl: 2 * MINUTE };
    make(store, vec![longer.clone()]).await.unwrap();
    make(store, end()).await.unwrap();
    assert!(matches!(make(store, vec![longer]).await, Err(StoreError::AlreadyExists)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_the_journal_too() {
    let Some(cluster) = Cluster::start(Flavour::Redis) else { return };
    let opened = Opened::at(&cluster.url());
    prepare(&opened.store).await;
    is_as_before(&opened.store).await;
    make(&opened.store, everything()).await.unwrap();
    is_all_done(&opened.store).await;
    // Half way through a move nothing is done by halves.
    cluster.begin_move(0, 1);
    cluster.migrate(0, 1, "{jit}:request:r");
    let seen = opened.store.look(&[]).await.unwrap().head;
    let failed = opened.store.commit(change(&seen, vec![put("r", "x"), put("new", "x")])).await;
    assert!(matches!(failed, Err(StoreError::NotNow(_))), "{failed:?}");
    cluster.end_move(0, 1);
    is_all_done(&opened.store).await;
    make(&opened.store, vec![put("r", "x"), put("new", "x")]).await.unwrap();
    verified(&opened.store).await;
}
