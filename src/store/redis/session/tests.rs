//! The rules of the protocol, without a server: what arrives in which order, and what may be used then.

use std::time::Duration;

use super::*;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::principal::Caller;
use crate::replica::{Limits, Lookup, Replica, Staleness};

const VALUE: &str = r#"{"v":1,"subject":"user:alice"}"#;

fn session() -> (Session, mpsc::UnboundedReceiver<Change>) {
    let around = Surroundings {
        replica: Arc::new(Replica::new(
            Staleness::AtMost(Duration::from_secs(2)),
            Limits { grants: 10, grants_per_principal: 10 },
        )),
        metrics: Arc::new(Metrics::new().unwrap()),
        clock: Clock::System,
        max_ttl: Duration::from_secs(3600),
    };
    let vanished = Arc::new(Mutex::new(Vanished::new(10)));
    let (changes, received) = mpsc::unbounded_channel();
    (Session::new(Keys::new("{jit}"), around, History { name: "first".into(), vanished }, changes), received)
}

/// The one after it, with the same replica.
fn next(session: &Session, history: &str) -> Session {
    session.close();
    let vanished = Arc::clone(&session.vanished);
    let (changes, _) = mpsc::unbounded_channel();
    Session::new(
        Keys::new("{jit}"),
        session.around.clone(),
        History { name: history.into(), vanished },
        changes,
    )
}

fn invalidation(keys: Option<&[&str]>) -> PushInfo {
    let bulk = |key: &&str| redis::Value::BulkString(key.as_bytes().to_vec());
    let data = keys.map_or(redis::Value::Nil, |keys| redis::Value::Array(keys.iter().map(bulk).collect()));
    PushInfo { kind: PushKind::Invalidate, data: vec![data] }
}

fn present() -> Vec<ReadValue> {
    vec![ReadValue::Present { bytes: VALUE.into(), ttl: Ttl::Left(Duration::from_secs(60)) }]
}

/// Active grants of alice; none if one of them is being read again.
fn known(session: &Session) -> Option<usize> {
    let alice = Caller::new(vec!["user:alice".parse().unwrap()]);
    match session.around.replica.lookup(&alice, Clock::System.now()) {
        Lookup::Settled(grants) => Some(grants.len()),
        Lookup::Unsettled | Lookup::TooMany => None,
    }
}

fn read(session: &Session, during: impl FnOnce()) {
    let key = "{jit}:grant:g".to_owned();
    let registered = session.register(&[&key]);
    let sent = Clock::System.now();
    during();
    session.take_replies(&[&key], &registered, present(), sent).unwrap();
}

fn read_absent(session: &Session) {
    let key = "{jit}:grant:g".to_owned();
    let registered = session.register(&[&key]);
    session.take_replies(&[&key], &registered, vec![ReadValue::Absent], Clock::System.now()).unwrap();
}

#[test]
fn a_reply_counts_only_if_no_push_overtook_it() {
    let (session, _changes) = session();
    read(&session, || session.on_push(invalidation(Some(&["{jit}:grant:g"]))));
    assert_eq!(known(&session), Some(0), "the old value of a key that changed meanwhile");
    read(&session, || session.on_push(invalidation(Some(&["{jit}:grant:other", "foreign"]))));
    assert_eq!(known(&session), Some(1));
}

#[test]
fn an_announced_grant_is_not_used_until_it_was_read_again() {
    let (session, mut changes) = session();
    read(&session, || ());
    session.on_push(invalidation(Some(&["{jit}:grant:g"])));
    assert_eq!(known(&session), None);
    assert!(matches!(changes.try_recv(), Ok(Change::Keys(keys)) if keys == ["{jit}:grant:g"]));
    read(&session, || ());
    assert_eq!(known(&session), Some(1));
}

#[test]
fn a_flush_forgets_everything_and_that_it_was_fresh() {
    let (session, mut changes) = session();
    let is_fresh = |session: &Session| session.around.replica.freshness(Clock::System.now()).is_fresh();
    session.confirm(Clock::System.now());
    assert!(!is_fresh(&session), "before the first complete pass");
    session.is_synced.store(true, Ordering::Release);
    session.confirm(Clock::System.now());
    assert!(is_fresh(&session));
    read(&session, || session.on_push(invalidation(None)));
    assert!(matches!(changes.try_recv(), Ok(Change::Everything(_))));
    session.confirm(Clock::System.now());
    assert!(!is_fresh(&session));
    assert_eq!(known(&session), Some(0), "a value read before the flush");
}

#[test]
fn what_was_revoked_does_not_come_back_with_another_history_of_the_server() {
    let (first, _changes) = session();
    read(&first, || ());
    read_absent(&first);
    read(&first, || ());
    assert_eq!(known(&first), Some(1), "the same server says so: somebody wrote it again");
    read_absent(&first);
    let second = next(&first, "second");
    read(&second, || ());
    assert_eq!(known(&second), Some(0));
}

#[test]
fn a_session_that_has_ended_changes_nothing() {
    let (first, _changes) = session();
    let second = next(&first, "first");
    read(&second, || ());
    first.on_push(invalidation(Some(&["{jit}:grant:g"])));
    first.on_push(invalidation(None));
    assert_eq!(known(&second), Some(1));
}

#[test]
fn batches_follow_the_size_of_the_values() {
    let (session, _changes) = session();
    let of = |bytes: usize| {
        let ttl = Ttl::Left(Duration::from_secs(60));
        vec![ReadValue::Present { bytes: vec![b'x'; bytes], ttl }]
    };
    for _ in 0..5 {
        session.adapt_batch(&of(300));
    }
    assert_eq!(session.batch.load(Ordering::Relaxed), BATCH);
    session.adapt_batch(&of(64 * 1024));
    assert_eq!(session.batch.load(Ordering::Relaxed), BATCH_BYTES / (64 * 1024));
}
