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

const LOCK: &str = "{jit}:lock:l";

fn is_locked(session: &Session) -> bool {
    let alice = Caller::new(vec!["user:alice".parse().unwrap()]);
    session.around.replica.lock_on(&alice, Clock::System.now()).is_some()
}

fn is_all_locked(session: &Session) -> bool {
    session.around.replica.lock_on_everything(Clock::System.now()).is_some()
}

fn lock_value(text: &str, ttl: Ttl) -> ReadValue {
    ReadValue::Present { bytes: text.into(), ttl }
}

fn on_alice() -> ReadValue {
    lock_value(r#"{"v":1,"principal":"user:alice","message":"m"}"#, Ttl::Left(Duration::from_secs(60)))
}

fn read_lock(session: &Session, value: ReadValue, during: impl FnOnce()) {
    let key = LOCK.to_owned();
    let registered = session.register(&[&key]);
    during();
    session.take_replies(&[&key], &registered, vec![value], Clock::System.now()).unwrap();
}

#[test]
fn an_announced_lock_leaves_nobody_decided_until_it_was_read() {
    let (session, mut changes) = session();
    read(&session, || ());
    session.on_push(invalidation(Some(&[LOCK])));
    assert!(matches!(changes.try_recv(), Ok(Change::Keys(keys)) if keys == [LOCK]));
    assert_eq!(known(&session), None);
    read_lock(&session, ReadValue::Absent, || session.on_push(invalidation(Some(&[LOCK]))));
    assert_eq!(known(&session), None, "it changed again while it was read");
    read_lock(&session, on_alice(), || ());
    assert_eq!((known(&session), is_locked(&session)), (Some(1), true));
    session.on_push(invalidation(Some(&[LOCK])));
    assert!(is_locked(&session), "what is known holds until it is known otherwise");
    read_lock(&session, ReadValue::Absent, || ());
    assert_eq!((known(&session), is_locked(&session)), (Some(1), false));
}

#[test]
fn a_lock_without_an_end_or_a_long_one_holds_and_what_cannot_be_read_locks_everything() {
    let (session, _changes) = session();
    let of = |text: &str, ttl| {
        read_lock(&session, lock_value(text, ttl), || ());
        (is_locked(&session), is_all_locked(&session))
    };
    let good = r#"{"v":1,"principal":"user:alice","message":"m"}"#;
    assert_eq!(of(good, Ttl::None), (true, false));
    assert_eq!(of(good, Ttl::Left(Duration::from_secs(400 * 24 * 3600))), (true, false));
    assert_eq!(of(good, Ttl::Left(Duration::ZERO)), (false, false));
    assert_eq!(of("{", Ttl::Left(Duration::from_secs(60))), (false, true));
    assert_eq!(of(good, Ttl::None), (true, false), "mended");
    let refused = |ttl| ReadValue::Refused { refusal: Refusal::WrongType, ttl };
    read_lock(&session, refused(Ttl::None), || ());
    assert!(is_all_locked(&session));
    read_lock(&session, refused(Ttl::Left(Duration::ZERO)), || ());
    assert!(!is_all_locked(&session), "its key has ended");
    let text = session.around.metrics.render().unwrap();
    assert!(text.contains("daypass_locks_unreadable_total{reason=\"wrong_type\"} 2"), "{text}");
}

#[test]
fn a_lock_that_another_history_has_not_holds_on_until_its_end_is_seen() {
    let pass = |session: &Session| {
        session.around.replica.begin_pass();
        session.end_lock_pass(|_| false);
    };
    let (first, _changes) = session();
    read_lock(&first, on_alice(), || ());
    let second = next(&first, "second");
    pass(&second);
    pass(&second);
    assert!(is_locked(&second));
    let third = next(&second, "third");
    pass(&third);
    assert!(is_locked(&third));
    // Written there and ended there, in one go.
    third.on_push(invalidation(Some(&[LOCK])));
    read_lock(&third, ReadValue::Absent, || ());
    assert!(!is_locked(&third));
    read_lock(&third, on_alice(), || ());
    let same = next(&third, "third");
    pass(&same);
    assert!(!is_locked(&same), "ended while nobody listened, and nothing was lost");
}

#[test]
fn a_flush_leaves_locks_in_force_until_the_copy_says_otherwise() {
    let (session, _changes) = session();
    read_lock(&session, on_alice(), || ());
    session.on_push(invalidation(None));
    assert!(is_locked(&session));
    session.around.replica.begin_pass();
    session.end_lock_pass(|_| false);
    assert!(!is_locked(&session));
}

#[test]
fn a_key_that_is_no_locks_name_locks_everything_until_a_list_has_it_no_more() {
    let (session, mut changes) = session();
    session.on_push(invalidation(Some(&["{jit}:lock:a b", "{jit}:lock:"])));
    assert!(is_all_locked(&session));
    assert!(matches!(changes.try_recv(), Ok(Change::Keys(keys)) if keys.len() == 2));
    assert!(session.tokens().is_empty(), "it is not read by its name");
    session.around.replica.begin_pass();
    session.take_in_misnamed("{jit}:lock:a b").unwrap();
    session.end_lock_pass(|_| false);
    assert!(is_all_locked(&session));
    session.around.replica.begin_pass();
    session.end_lock_pass(|_| false);
    assert!(!is_all_locked(&session));
}

#[test]
fn a_session_that_has_ended_puts_no_lock_in_doubt_and_the_next_settles_what_it_left() {
    let (first, _changes) = session();
    first.on_push(invalidation(Some(&[LOCK])));
    let second = next(&first, "first");
    assert!(second.around.replica.is_lock_in_doubt());
    second.around.replica.begin_pass();
    second.end_lock_pass(|_| false);
    assert!(!second.around.replica.is_lock_in_doubt());
    first.on_push(invalidation(Some(&[LOCK, "{jit}:lock:a b"])));
    assert!(!second.around.replica.has_locks());
}
